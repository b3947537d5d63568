// What the frontend reward sees of a page. Runs in a world of its own: the page can neither see nor change it.
globalThis.probe = (() => {
  "use strict";
  const listening = new WeakSet(); // Elements with a listener for clicks.
  let controls = [];
  let places = []; // Of each control when it was found, as `path` gives it.

  const NATIVE = "button, a[href], input, select, textarea, summary, [contenteditable=''], [contenteditable=true], " +
    "[role=button], [role=link], [role=tab], [role=menuitem], [role=switch], [role=checkbox], [role=option]";
  const TEXT_TYPES = ["text", "email", "tel", "url", "search", "password", "number"];
  const SET_TYPES = {date: "2024-05-17", time: "10:30", month: "2024-05", week: "2024-W20",
                     "datetime-local": "2024-05-17T10:30", color: "#336699"};
  const LOOKS = ["color", "background-color", "background-image", "border-top-color", "border-top-width", "opacity",
                 "transform", "filter", "box-shadow", "text-decoration-line", "font-size", "font-weight", "outline-style",
                 "z-index", "fill", "stroke"];

  const onPage = (box) => box.width > 1 && box.height > 1 && box.right + scrollX > 0 && box.bottom + scrollY > 0 &&
    box.left + scrollX < innerWidth;
  const shown = (element) => element.checkVisibility({opacityProperty: true, visibilityProperty: true});
  const visible = (element) => shown(element) && onPage(element.getBoundingClientRect());
  // Elements in document order, those in open shadow trees included; of very long pages the beginning.
  const all = () => {
    const found = [];
    const walk = (root) => {
      for (const element of root.querySelectorAll("*")) {
        if (found.length >= 4000) return;
        found.push(element);
        if (element.shadowRoot) walk(element.shadowRoot);
      }
    };
    if (document.body) {
      found.push(document.body);
      if (document.body.shadowRoot) walk(document.body.shadowRoot);
      walk(document.body);
    }
    return found;
  };
  const above = (element) => element.assignedSlot ?? element.parentElement ?? element.getRootNode().host ?? null;
  const within = (outer, inner) => { // Whether one contains the other, through shadow trees.
    for (let at = inner; at; at = at.parentElement ?? at.getRootNode().host) if (at === outer) return true;
    return false;
  };
  const topAt = (x, y) => { // The innermost element at a place, in shadow trees too.
    let top = document.elementFromPoint(x, y);
    while (top?.shadowRoot) {
      const inner = top.shadowRoot.elementFromPoint(x, y);
      if (!inner || inner === top) break;
      top = inner;
    }
    return top;
  };
  const focused = () => {
    let active = document.activeElement;
    while (active?.shadowRoot?.activeElement) active = active.shadowRoot.activeElement;
    return active;
  };
  const ownText = (element) => [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE)
    .map((node) => node.data).join(" ").replace(/\s+/g, " ").trim();

  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (color) => { // Any CSS colour as [red, green, blue 0..255, alpha 0..1].
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };

  // WCAG 2.2, definitions of relative luminance and contrast ratio.
  const luminance = ([red, green, blue]) => {
    const linear = [red, green, blue].map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const contrast = (element) => { // Of the text to the nearest plain background; null over an image.
    let text = rgba(getComputedStyle(element).color);
    for (let at = element; at; at = above(at)) {
      const style = getComputedStyle(at);
      if (style.backgroundImage !== "none") return text[3] < 0.1 ? 1 : null;
      const back = rgba(style.backgroundColor);
      if (back[3] > 0.5) return ratio(text, back);
    }
    return ratio(text, [255, 255, 255, 1]);
  };
  const ratio = (text, back) => {
    if (text[3] < 0.1) return 1;
    const [high, low] = [luminance(text), luminance(back)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };

  // Text that a person can read: shown, on the page, neither tiny nor giant, not in the colour of what is behind it.
  const legible = (element) => {
    const size = parseFloat(getComputedStyle(element).fontSize);
    if (size < 8 || size > 72 || !shown(element)) return false;
    const range = document.createRange();
    range.selectNodeContents(element);
    const box = [...range.getClientRects()].find(onPage);
    if (!box) return false;
    const distinct = contrast(element);
    if (distinct !== null && distinct < 1.2) return false;
    const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
    const top = x >= 0 && y >= 0 && x < innerWidth && y < innerHeight ? topAt(x, y) : null;
    return top === null || within(top, element) || within(element, top) ||
      element.closest("label") !== null || getComputedStyle(element).pointerEvents === "none";
  };

  const path = (element) => {
    const steps = [];
    for (let at = element; at && at !== document.body; at = at.parentElement ?? at.getRootNode().host) {
      let before = 0; // Counted backwards: in a table of 50,000 rows only the first ones are looked at.
      for (let other = at; (other = other.previousElementSibling);) before++;
      steps.unshift(at.localName + before);
    }
    return steps.join("/");
  };

  // A control; where the page has drawn it anew, what stands in its place.
  const current = (index) => {
    const element = controls[index];
    if (element.isConnected) return element;
    const heir = all().find((other) => other.localName === element.localName && path(other) === places[index]);
    if (heir) controls[index] = heir;
    return heir ?? element;
  };

  const settle = () => { // Transitions and animations jump to their ends; endless ones stand still at their start.
    for (const animation of document.getAnimations()) {
      try {
        if (animation.effect?.getComputedTiming().endTime === Infinity) {
          animation.pause();
          animation.currentTime = 0;
        } else animation.finish();
      } catch { /* An animation without a timeline has no end to jump to. */ }
    }
  };

  const look = (element) => {
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    const place = [box.left + scrollX, box.top + scrollY, box.width, box.height].map(Math.round);
    const aria = [...element.attributes].filter(({name}) => name.startsWith("aria-")).map(({name, value}) => name + value);
    const own = [ownText(element), element.value, element.checked, element.open, element.paused, element.src];
    return JSON.stringify([own, aria, place, LOOKS.map((name) => style.getPropertyValue(name))]);
  };

  return {
    loaded: () => new Promise((done) => {
      const look = () => { document.readyState === "complete" ? done(true) : setTimeout(look, 10); };
      look();
    }),

    painted: () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true)))),

    mark: (element) => { if (element instanceof Element) listening.add(element); },

    // Everything visible, as place in the document -> look.
    state: () => {
      settle();
      const found = {":title": document.title, ":scroll": `${Math.round(scrollX)},${Math.round(scrollY)}`,
                     ":address": location.href, ":fullscreen": String(document.fullscreenElement !== null)};
      try { found[":storage"] = JSON.stringify({...localStorage}); } catch { /* Storage may be off. */ }
      for (const element of all()) if (visible(element)) found[path(element)] = look(element);
      return found;
    },

    // Visible text and graphics, as place -> what is there.
    content: () => {
      settle();
      const found = {};
      for (const element of all()) {
        if (["SCRIPT", "STYLE", "NOSCRIPT", "TITLE", "OPTION"].includes(element.tagName)) continue;
        const text = ownText(element) || (element.matches("input, textarea, select") &&
          visible(element) ? `${element.type} ${element.value || element.placeholder || ""} ${element.name}` : "");
        if (text && legible(element)) found[path(element)] = text;
        else if (text && element.matches("input, textarea, select")) found[path(element)] = text;
      }
      return found;
    },

    // Pictures: canvas, img, video and the shapes of inline SVG, as boxes in the window.
    graphics: () => all().filter((element) => visible(element) && element.matches("canvas, img, video, svg"))
      .slice(0, 20).map((element) => {
        const box = element.getBoundingClientRect();
        const shapes = new Set([...element.querySelectorAll("path, rect, circle, ellipse, line, polyline, polygon, text")]
          .filter(shown).map((shape) => shape.outerHTML));
        return {kind: element.localName, shapes: shapes.size, box: [box.left, box.top, box.width, box.height]};
      }),

    brokenImages: () => [...document.images].filter((image) => image.complete && image.naturalWidth === 0 &&
      image.getAttribute("src")).length,

    overflow: () => {
      const root = document.scrollingElement ?? document.documentElement;
      return Math.max(0, root.scrollWidth - innerWidth);
    },

    // Share of the lines of text that run into another text: by a quarter of the smaller one, its leading left out.
    overlaps: () => {
      const lines = [];
      const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      const range = document.createRange();
      for (let node = walk.nextNode(); node && lines.length < 600; node = walk.nextNode()) {
        if (!node.data.trim() || !shown(node.parentElement)) continue;
        range.selectNodeContents(node);
        for (const box of range.getClientRects()) {
          if (!onPage(box)) continue;
          const cut = box.height / 5;
          lines.push({node, left: box.left, right: box.right, top: box.top + cut, bottom: box.bottom - cut});
        }
      }
      const area = ({left, right, top, bottom}) => Math.max(0, right - left) * Math.max(0, bottom - top);
      const common = (a, b) => area({left: Math.max(a.left, b.left), right: Math.min(a.right, b.right),
                                     top: Math.max(a.top, b.top), bottom: Math.min(a.bottom, b.bottom)});
      const hit = lines.filter((one) => lines.some((other) => other.node !== one.node &&
        common(one, other) > Math.min(area(one), area(other)) / 4));
      return lines.length ? hit.length / lines.length : 0;
    },

    unsupported: (declarations) => declarations.filter(([name, value]) => !CSS.supports(name, value)),

    // Enabled visible controls in document order; `limit` of them, evenly spaced.
    controls: (limit) => {
      const large = innerWidth * innerHeight / 2;
      const native = (element) => element.matches(NATIVE);
      const extra = (element) => listening.has(element) && !element.closest("label") &&
        !element.querySelector(NATIVE) && ![...element.querySelectorAll("*")].some((inner) => listening.has(inner)) &&
        element.offsetWidth * element.offsetHeight < large && element !== document.body;
      const found = all().filter((element) => (native(element) || extra(element)) && visible(element) &&
        !element.matches(":disabled, [aria-disabled=true], [type=hidden], [type=file]") &&
        !element.parentElement?.closest("button, a[href]"));
      const step = Math.max(1, found.length / limit);
      controls = Array.from({length: Math.min(limit, found.length)}, (_, index) => found[Math.floor(index * step)]);
      places = controls.map(path);
      return {total: found.length, kinds: controls.map((element) => probe.kind(element))};
    },

    kind: (element) => {
      const type = element.type;
      if (element.matches("textarea, [contenteditable]:not([contenteditable=false])")) return "text";
      if (element.localName === "select" || type === "range" || type in SET_TYPES) return "set";
      if (element.localName === "input" && (type === "checkbox" || type === "radio")) return "check";
      if (element.localName === "input" && TEXT_TYPES.includes(type)) return "text";
      if (element.localName === "a") {
        const target = element.getAttribute("href").trim();
        if (listening.has(element) || /^javascript:/i.test(target)) return "button";
        if (target === "#top" || target.startsWith("#") && document.getElementById(target.slice(1))) return "jump";
        if (target.startsWith("#") || target === "") return "empty";
        return "away";
      }
      return "button";
    },

    name: (index) => {
      const element = controls[index];
      const text = (element.innerText || element.value || element.getAttribute("aria-label") || "").trim();
      return `${element.localName} ${text.slice(0, 40)}`.trim();
    },

    // Where to click a control: its middle, if that is where a click would meet it; null if it is gone.
    locate: (index) => {
      const element = current(index);
      if (!element?.isConnected || !visible(element)) return null;
      element.scrollIntoView({block: "center", inline: "center", behavior: "instant"});
      const box = [...element.getClientRects()].find((rect) => rect.width > 0) ?? element.getBoundingClientRect();
      const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
      const top = topAt(x, y);
      const label = top?.closest("label");
      const hit = top !== null && (within(element, top) || label?.control === element || top.contains(element) &&
        !top.matches("body, html") && top.closest("button, a, label, [role]") !== null);
      return hit ? {x, y} : null;
    },

    focus: (index) => { current(index).focus({preventScroll: true}); },
    active: () => controls.indexOf(focused()),
    value: (index) => {
      const element = controls[index];
      return JSON.stringify([element.value, element.checked, element.isContentEditable ? element.innerText : ""]);
    },
    expectedByTab: () => controls.flatMap((element, index) => element.type === "radio" ? [] : [index]),

    text: (index) => {
      const element = controls[index];
      const plain = {email: "ada@example.com", tel: "5550100200", url: "https://example.com", password: "Passw0rd!23"};
      if (element.type === "number") {
        const [low, high] = [parseFloat(element.min), parseFloat(element.max)];
        return String(Number.isFinite(low) ? low + 1 : Number.isFinite(high) ? Math.min(high, 3) : 3);
      }
      return plain[element.type] ?? "Ada Lovelace";
    },
    select: (index) => { controls[index].select?.(); },

    // Choose another value of a field that is not typed into; true if it took it.
    set: (index) => {
      const element = controls[index];
      const before = element.value;
      if (element.localName === "select") {
        const options = [...element.options].map((option, at) => [option, at]).filter(([option]) => !option.disabled);
        const other = options.find(([, at]) => at !== element.selectedIndex);
        if (!other) return false;
        element.selectedIndex = other[1];
      } else if (element.type === "range") {
        const [low, high] = [parseFloat(element.min || "0"), parseFloat(element.max || "100")];
        element.value = String(element.valueAsNumber > (low + high) / 2 ? low : high);
      } else element.value = SET_TYPES[element.type];
      element.dispatchEvent(new Event("input", {bubbles: true}));
      element.dispatchEvent(new Event("change", {bubbles: true}));
      return element.value !== before;
    },

    // A click that is meant for no control: what it does, a click on a control must outdo.
    placebo: () => {
      document.documentElement.dispatchEvent(new MouseEvent("click", {bubbles: true, view: window}));
    },
  };
})();
"loaded";
