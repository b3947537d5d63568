// What the frontend reward sees of a page. Runs in a world of its own: the page can neither see nor change it.
globalThis.probe = (() => {
  "use strict";
  const {parentOf, rootOf, isConnected, contains, tag, shadow, slotOf, before, childNodes, children, matches, closest,
         attribute, query, find, rect, rects, checkVisibility, scrollIntoView, body, documentElement, activeElement, readyState,
         images, scroller, fullscreen, elementFromPoint, createElement, createRange, createTreeWalker, getAnimations, byId,
         byTag, focus, blur, innerText, own} = dom;

  const listening = new WeakSet(); // Elements with a listener for clicks.
  const pressed = new WeakSet(); // With one for the button going down, from where one may drag.
  const receiving = new WeakSet(); // With one for what is dropped.
  const gestures = new WeakMap(); // Element -> those of GESTURES that it listens to.
  const USED_BY = /^(click|mouse(down|up)|pointer(down|up))$/;
  let delegates = false; // Whether something listens on the whole page for what is clicked in it.
  let controls = [];
  let places = []; // Of each control when it was found, as `path` gives it.

  const NATIVE = "button, a[href], input, select, textarea, summary, [contenteditable=''], [contenteditable=true], " +
    "[role=button], [role=link], [role=tab], [role=menuitem], [role=switch], [role=checkbox], [role=option]";
  const FIELDS = "input, textarea, select";
  const TEXT_TYPES = ["text", "email", "tel", "url", "search", "password", "number"];
  const SET_TYPES = {date: "2024-05-17", time: "10:30", month: "2024-05", week: "2024-W20",
                     "datetime-local": "2024-05-17T10:30", color: "#336699"};
  const GESTURES = ["dblclick", "contextmenu", "wheel"];
  const onPage = (box) => box.width > 1 && box.height > 1 && box.right + scrollX > 0 && box.bottom + scrollY > 0 &&
    box.left + scrollX < innerWidth;
  const shown = (element) => checkVisibility(element, {opacityProperty: true, visibilityProperty: true});
  const visible = (element) => shown(element) && onPage(rect(element));
  // Elements in document order, those in open shadow trees included; of very long pages the beginning.
  const all = () => {
    const found = [];
    const walk = (inside) => {
      for (const element of inside) {
        if (found.length >= 4000) return;
        found.push(element);
        if (shadow(element)) walk(shadow(element).querySelectorAll("*"));
      }
    };
    if (body()) walk([body(), ...query(body(), "*")]);
    return found;
  };
  const above = (element) => parentOf(element) ?? rootOf(element).host ?? null;
  const within = (outer, inner) => { // Whether one contains the other, through shadow trees.
    for (let at = inner; at; at = above(at)) if (at === outer) return true;
    return false;
  };
  const topAt = (x, y) => { // The innermost element at a place, in shadow trees too.
    let top = elementFromPoint(x, y);
    while (top && shadow(top)) {
      const inner = shadow(top).elementFromPoint(x, y);
      if (!inner || inner === top) break;
      top = inner;
    }
    return top;
  };
  const focused = () => {
    let active = activeElement();
    while (active && shadow(active)?.activeElement) active = shadow(active).activeElement;
    return active;
  };
  const ownText = (element) => [...childNodes(element)].filter((node) => node instanceof Text)
    .map((node) => node.data).join(" ").replace(/\s+/g, " ").trim();

  const canvas = createElement("canvas").getContext("2d", {willReadFrequently: true});
  const known = new Map();
  const rgba = (color) => { // Any CSS colour as [red, green, blue 0..255, alpha 0..1].
    if (!known.has(color)) known.set(color, paint(color));
    return known.get(color);
  };
  const paint = (color) => {
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
    for (let at = element; at; at = slotOf(at) ?? above(at)) {
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
    const range = createRange();
    range.selectNodeContents(element);
    const box = [...range.getClientRects()].find(onPage);
    if (!box) return false;
    const distinct = contrast(element);
    if (distinct !== null && distinct < 1.2) return false;
    const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
    const top = x >= 0 && y >= 0 && x < innerWidth && y < innerHeight ? topAt(x, y) : null;
    return top === null || within(top, element) || within(element, top) ||
      closest(element, "label") !== null || getComputedStyle(element).pointerEvents === "none";
  };

  const path = (element) => {
    const steps = [];
    for (let at = element; at && at !== body(); at = above(at)) {
      let earlier = 0; // Counted backwards: in a table of 50,000 rows only the first ones are looked at.
      for (let other = at; (other = before(other));) earlier++;
      steps.unshift(tag(at) + earlier);
    }
    return steps.join("/");
  };

  // A control; where the page has drawn it anew, what stands in its place.
  const current = (index) => {
    const element = controls[index];
    if (isConnected(element)) return element;
    const heir = all().find((other) => tag(other) === tag(element) && path(other) === places[index]);
    if (heir) controls[index] = heir;
    return heir ?? element;
  };

  const settle = () => { // Transitions and animations jump to their ends; endless ones stand still at their start.
    for (const animation of getAnimations()) {
      try {
        if (animation.effect?.getComputedTiming().endTime === Infinity) {
          animation.pause();
          animation.currentTime = 0;
        } else animation.finish();
      } catch { /* An animation without a timeline has no end to jump to. */ }
    }
  };

  const kind = (element) => {
    const type = own(element, "type");
    if (matches(element, "textarea, [contenteditable]:not([contenteditable=false])")) return "text";
    if (tag(element) === "select" || type === "range" || Object.hasOwn(SET_TYPES, type)) return "set";
    if (tag(element) === "label" || tag(element) === "input" && type === "file") return "file";
    if (tag(element) === "input" && (type === "checkbox" || type === "radio")) return "check";
    if (tag(element) === "input" && TEXT_TYPES.includes(type)) return "text";
    if (tag(element) === "canvas" && pressed.has(element) || matches(element, "[draggable=true]")) return "drag";
    if (tag(element) === "a") {
      const target = attribute(element, "href")?.trim() ?? "";
      if (listening.has(element) || /^javascript:/i.test(target)) return "button";
      if (target === "#top" || target.startsWith("#") && byId(target.slice(1))) return "jump";
      if (target.startsWith("#") || target === "") return "empty";
      // Elsewhere there may be something; in a page of one document there is not.
      return element.origin !== location.origin ? "away" : "nowhere";
    }
    return gestures.has(element) && !listening.has(element) && !matches(element, NATIVE) ? "gesture" : "button";
  };

  const blend = ([red, green, blue, alpha], [r, g, b]) => [red, green, blue].map((value, index) =>
    Math.round(value * alpha + [r, g, b][index] * (1 - alpha)));
  const cut = (box, clip) => { // What of a box is left within another, as left, top, right, bottom.
    const edges = [box.left, box.top, box.right, box.bottom];
    return clip === null ? edges : edges.map((edge, side) => (side < 2 ? Math.max : Math.min)(edge, clip[side]));
  };
  const content = (element) => { // Own text, or what a field holds.
    if (matches(element, "input, textarea, select, progress, meter")) {
      return ["checkbox", "radio"].includes(element.type) ? (element.checked ? "yes" : "no")
        : String(element.type === "password" ? "*".repeat(element.value.length) : element.value || element.placeholder || "");
    }
    if (matches(element, "img, video, audio")) return `${(element.currentSrc ?? "").slice(0, 300)} ${element.paused ?? ""}`;
    return ownText(element);
  };
  const shapeOf = (element) => element instanceof SVGGeometryElement
    ? ["d", "points"].map((name) => attribute(element, name) ?? "").join(" ").slice(0, 400) : "";
  const lineOf = (style, side) => style.getPropertyValue(`border-${side}-style`) === "none" ? 0
    : parseFloat(style.getPropertyValue(`border-${side}-width`));

  // How an element looks to a person, null if it cannot be seen; and what is behind its children.
  const look = (element, around) => {
    const style = getComputedStyle(element);
    if (style.display === "none" || !checkVisibility(element)) return null;
    const opacity = around.opacity * parseFloat(style.opacity);
    if (opacity < 0.1) return null;
    const fixed = around.fixed || style.position === "fixed";
    const box = rect(element);
    const seen = cut(box, style.position === "fixed" ? null : around.clip);
    const fill = rgba(style.backgroundColor);
    const picture = style.backgroundImage !== "none";
    const back = blend(fill, around.back);
    const overflows = style.overflowX === "visible" && style.overflowY === "visible" || style.display === "contents";
    const inner = {opacity, fixed, back, picture: fill[3] > 0.5 ? picture : picture || around.picture,
                   clip: overflows ? around.clip : seen};
    const size = [seen[2] - seen[0], seen[3] - seen[1]];
    const there = size[0] > 1 && size[1] > 1 && style.visibility === "visible" &&
      seen[2] + scrollX > 0 && seen[3] + scrollY > 0 && seen[0] < innerWidth;
    if (!there) return {inner};
    const ink = rgba(style.color);
    const reads = parseFloat(style.fontSize) >= 8 && ink[3] * opacity >= 0.2 &&
      (inner.picture || ratio([...blend(ink, back), 1], [...back, 1]) >= 1.2);
    const replaced = matches(element, "img, svg, canvas, video, input, textarea, select, progress, meter");
    const text = reads || replaced ? content(element) : "";
    const line = ["top", "right", "bottom", "left"].map((side) => lineOf(style, side));
    const edge = Math.max(...line) > 0 ? blend(rgba(style.borderTopColor), around.back) : null;
    const shape = element instanceof SVGElement && tag(element) !== "svg";
    const other = [picture ? style.backgroundImage.slice(0, 200) : "", style.transform, style.clipPath, style.filter, style.boxShadow,
                   style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2 ? "" : style.outlineColor,
                   text ? style.textDecorationLine + style.fontWeight : "", shape ? style.fill + style.stroke : "",
                   shapeOf(element)];
    const contrasts = (color) => ratio([...color, 1], [...around.back, 1]) >= 1.08 || differ(color, around.back) >= 24;
    const paints = Boolean(text) || replaced || picture || shape || fill[3] > 0.05 && contrasts(back) ||
      edge !== null && contrasts(edge) || style.boxShadow !== "none";
    const at = fixed ? [0, 0] : [scrollX, scrollY];
    return {inner, looks: [path(element), tag(element), text, [seen[0] + at[0], seen[1] + at[1], ...size].map(Math.round),
      text ? blend(ink, back) : null, back, edge, Math.round(opacity * 20) / 20, other.join("|"), paints]};
  };
  const differ = (one, other) => Math.max(...one.map((value, index) => Math.abs(value - other[index])));
  const inside = (element) => {
    if (shadow(element)) return shadow(element).children;
    if (element instanceof HTMLSlotElement && element.assignedElements().length) return element.assignedElements();
    return children(element);
  };
  const looks = () => {
    const found = [];
    const visit = (element, around) => {
      if (found.length >= 4000) return;
      const seen = look(element, around);
      if (seen === null) return;
      if (seen.looks) found.push(seen.looks);
      for (const child of inside(element)) visit(child, seen.inner);
    };
    const nothing = {opacity: 1, fixed: false, back: [255, 255, 255], picture: false, clip: null};
    if (body()) visit(body(), look(documentElement(), nothing)?.inner ?? nothing);
    return found;
  };

  const THUMB = [48, 32];
  const thumb = createElement("canvas").getContext("2d", {willReadFrequently: true});
  [thumb.canvas.width, thumb.canvas.height] = THUMB;

  // Red, green, blue and alpha of each dot of a small copy; null for what cannot be read: frames, pictures from elsewhere.
  const dotsOf = (element) => {
    thumb.clearRect(0, 0, ...THUMB);
    try {
      thumb.drawImage(element, 0, 0, ...THUMB);
      const {data} = thumb.getImageData(0, 0, ...THUMB);
      return Array.from({length: THUMB[0] * THUMB[1]}, (_, dot) => [...data.subarray(4 * dot, 4 * dot + 4)]);
    } catch { return null; }
  };

  // Where a person would click a canvas: the middle of the largest thing that is drawn on its ground, else its own middle.
  const striking = (element, box) => {
    const middle = [box.left + box.width / 2, box.top + box.height / 2];
    const [across, down] = THUMB;
    const dots = dotsOf(element);
    if (!dots) return middle;
    const counts = new Map();
    for (const dot of dots) counts.set(String(dot), (counts.get(String(dot)) ?? 0) + 1);
    const ground = [...counts].reduce((one, other) => (other[1] > one[1] ? other : one))[0].split(",").map(Number);
    const drawn = dots.map((dot) => differ(dot, ground) > 48);
    let [best, most] = [middle, 0];
    const seen = new Set();
    for (let start = 0; start < dots.length; start++) {
      if (!drawn[start] || seen.has(start)) continue;
      const [thing, left] = [[], [start]];
      seen.add(start);
      while (left.length) {
        const at = left.pop();
        thing.push(at);
        for (const next of [at - across, at + across, at % across ? at - 1 : -1, (at + 1) % across ? at + 1 : -1]) {
          if (drawn[next] && !seen.has(next)) { seen.add(next); left.push(next); }
        }
      }
      if (thing.length <= most || thing.length > dots.length / 4) continue;
      const mean = (of) => thing.reduce((sum, at) => sum + of(at) + 0.5, 0) / thing.length;
      most = thing.length;
      best = [box.left + box.width * mean((at) => at % across) / across,
              box.top + box.height * mean((at) => Math.floor(at / across)) / down];
    }
    return best;
  };

  // Canvases as place -> a small grey picture, a letter a dot; null for one that cannot be read or is empty.
  const thumbnails = () => Object.fromEntries([...byTag("canvas"), ...byTag("iframe")].filter(visible).slice(0, 8).map((element) => {
    const dots = dotsOf(element);
    if (!dots || dots.every((dot) => dot[3] === 0)) return [path(element), null];
    return [path(element), String.fromCharCode(...dots.map(([red, green, blue, alpha]) =>
      48 + Math.round((255 - alpha + alpha / 255 * (red + 2 * green + blue) / 4) / 4)))];
  }));

  // What a person would type into a field: what its label asks for, as far as its own rules accept it.
  const ASKED = [[/mail/, "ada@example.com"], [/phone|mobile|\btel/, "5550100200"], [/zip|postal|postcode|\bpin\b|\bcode/, "12345"],
                 [/birth|date|\bday\b/, "2001-05-17"], [/time\b/, "10:30"], [/card/, "4111111111111111"], [/web ?site|\burl|link/, "https://example.com"],
                 [/amount|price|cost|bill|total|sum|salary|income|budget|loan|weight|height|length|width|distance|radius|size/, "1200"],
                 [/number|count|quantity|age\b|year|percent|rate|interest|tip|people|guests|minute|second|hour|score|points|km|mile|degree|celsius|fahrenheit/, "12"]];
  const KEPT = ["Ada Lovelace", "Ada", "12345", "12", "1200", "5550100200", "2001-05-17", "17.05.2001", "10:30", "123", "1234",
                "ada@example.com", "https://example.com", "AB12", "1"];
  const fitting = (element) => {
    const type = own(element, "type");
    const plain = {email: "ada@example.com", tel: "5550100200", url: "https://example.com", password: "Passw0rd!23"};
    if (type === "number") {
      const [low, high] = [parseFloat(element.min), parseFloat(element.max)];
      return String(Number.isFinite(low) ? low + 1 : Number.isFinite(high) ? Math.min(high, 3) : 3);
    }
    const hint = own(element, "placeholder") ?? "";
    const asked = [...(element.labels ?? [])].map((label) => label.textContent).join(" ") || attribute(element, "aria-label") || hint;
    const words = `${asked} ${attribute(element, "name") ?? ""} ${attribute(element, "id") ?? ""}`.toLowerCase();
    const digits = /numeric|decimal/.test(attribute(element, "inputmode") ?? "");
    const first = [plain[type], /^[\d.,:\/-]+$/.test(hint) ? hint : null, ...ASKED.filter(([about]) => about.test(words)).map(([, text]) => text),
                   digits ? "12" : null].filter(Boolean);
    if (tag(element) !== "input") return first.find((text) => text.length > 5) ?? "Ada Lovelace";
    const fits = (text) => {
      const copy = element.cloneNode();
      copy.value = text;
      return copy.checkValidity() && !(element.maxLength > 0 && text.length > element.maxLength);
    };
    return [...first, ...KEPT].find(fits) ?? first[0] ?? "Ada Lovelace";
  };

  return {
    loaded: () => new Promise((done) => {
      const look = () => { readyState() === "complete" ? done(true) : setTimeout(look, 10); };
      look();
    }),

    painted: () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true)))),

    mark: (element, types) => {
      if (!(element instanceof Element)) {
        delegates ||= types.some((type) => USED_BY.test(type));
        return;
      }
      if (matches(element, "html, body")) delegates ||= types.some((type) => USED_BY.test(type));
      if (types.some((type) => USED_BY.test(type))) listening.add(element);
      if (types.some((type) => /^(mousedown|pointerdown|touchstart)$/.test(type))) pressed.add(element);
      if (types.some((type) => /^(drop|dragover)$/.test(type))) receiving.add(element);
      const made = GESTURES.filter((type) => types.includes(type));
      // Who listens to all there is, as React does on its root, listens for what stands in it.
      if (made.length === GESTURES.length) delegates = true;
      else if (made.length) gestures.set(element, made);
    },

    // What can be seen: elements as `look` gives them, canvases, where the window stands.
    state: () => {
      settle();
      const canvases = thumbnails();
      const boxes = Object.fromEntries([...byTag("canvas"), ...byTag("iframe")].map((element) => [path(element), rect(element)])
        .filter(([place]) => canvases[place] === null).map(([place, box]) => [place, cut(box, null).map(Math.round)]));
      return {looks: looks(), canvases, boxes, scroll: [scrollX, scrollY], fullscreen: fullscreen() !== null};
    },

    elements: () => byTag("*").length,
    written: () => body() !== null && innerText(body()).trim() !== "",
    blur: () => { if (activeElement() instanceof HTMLElement) blur(activeElement()); },

    // Visible text and graphics, as place -> what is there.
    content: () => {
      settle();
      const found = {};
      for (const element of all()) {
        if (["script", "style", "noscript", "title", "option"].includes(tag(element))) continue;
        const text = ownText(element) || (matches(element, FIELDS) &&
          visible(element) ? `${element.type} ${element.value || element.placeholder || ""} ${element.name}` : "");
        if (text && legible(element)) found[path(element)] = text;
        else if (text && matches(element, FIELDS)) found[path(element)] = text;
      }
      return found;
    },

    // Pictures: canvas, img, video and the shapes of inline SVG, as boxes in the window.
    graphics: () => all().filter((element) => visible(element) && matches(element, "canvas, img, video, svg, iframe"))
      .slice(0, 20).map((element) => {
        const box = rect(element);
        const shapes = new Set([...query(element, "path, rect, circle, ellipse, line, polyline, polygon, text")]
          .filter(shown).map((shape) => shape.outerHTML));
        return {kind: tag(element), shapes: shapes.size, box: [box.left, box.top, box.width, box.height]};
      }),

    brokenImages: () => [...images()].filter((image) => image.complete && image.naturalWidth === 0 &&
      image.getAttribute("src")).length,

    overflow: () => {
      const root = scroller() ?? documentElement();
      return Math.max(0, root.scrollWidth - innerWidth);
    },

    // Share of the lines of text that run into another text: by a quarter of the smaller one, its leading left out.
    overlaps: () => {
      const lines = [];
      const walk = createTreeWalker(body(), NodeFilter.SHOW_TEXT);
      const range = createRange();
      for (let node = walk.nextNode(); node && lines.length < 600; node = walk.nextNode()) {
        if (!node.data.trim() || !shown(parentOf(node))) continue;
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
      const native = (element) => matches(element, NATIVE);
      const small = (element) => { const {width, height} = rect(element); return width * height < large; };
      const moved = (element) => matches(element, "[draggable=true]") || pressed.has(element) && tag(element) === "canvas";
      const extra = (element) => listening.has(element) && !closest(element, "label") &&
        !find(element, NATIVE) && ![...query(element, "*")].some((inner) => listening.has(inner)) &&
        small(element) && element !== body();
      const pointed = (element) => delegates && getComputedStyle(element).cursor === "pointer" && small(element) &&
        element !== body() && !(parentOf(element) && getComputedStyle(parentOf(element)).cursor === "pointer") &&
        !closest(element, `${NATIVE}, label`) && !find(element, NATIVE);
      const gestured = (element) => gestures.has(element) && small(element) && element !== body();
      const upload = (element) => tag(element) === "label" && element.control?.type === "file" && !visible(element.control);
      const found = all().filter((element) => (native(element) || extra(element) || moved(element) || gestured(element) ||
          pointed(element) || upload(element)) &&
        visible(element) && !matches(element, ":disabled, [aria-disabled=true], [type=hidden]") &&
        !(parentOf(element) && closest(parentOf(element), "button, a[href]")));
      const step = Math.max(1, found.length / limit);
      controls = Array.from({length: Math.min(limit, found.length)}, (_, index) => found[Math.floor(index * step)]);
      places = controls.map(path);
      return {total: found.length, kinds: controls.map(kind), places};
    },

    name: (index) => {
      const element = controls[index];
      const text = (element instanceof HTMLElement && innerText(element) || own(element, "value") ||
        attribute(element, "aria-label") || "").trim();
      return `${tag(element)} ${text.slice(0, 40)}`.trim();
    },

    // Where to click a control: its middle, if that is where a click would meet it; null if it is gone.
    locate: (index) => {
      const element = current(index);
      if (!element || !isConnected(element) || !visible(element)) return null;
      scrollIntoView(element, {block: "center", inline: "center", behavior: "instant"});
      const box = [...rects(element)].find(({width}) => width > 0) ?? rect(element);
      const [x, y] = tag(element) === "canvas" ? striking(element, box) : [box.left + box.width / 2, box.top + box.height / 2];
      const top = topAt(x, y);
      if (top === null) return null;
      const label = closest(top, "label");
      const hit = within(element, top) || label?.control === element || contains(top, element) &&
        !matches(top, "body, html") && closest(top, "button, a, label, [role]") !== null;
      return hit ? {x, y} : null;
    },

    // A place in the window where there is no control, in the same dialog if the control is in one; null if there is none.
    empty: (index) => {
      const element = current(index);
      const within_ = closest(element, "dialog, [role=dialog], [role=alertdialog], [aria-modal=true]") ?? documentElement();
      const area = cut(rect(within_), [0, 0, innerWidth, innerHeight]);
      let best = null;
      for (let step = 0; step < 96; step++) {
        const [x, y] = [[0, 2], [1, 3]].map(([low, high], axis) => area[low] + (area[high] - area[low]) *
          ((axis ? Math.floor(step / 12) : step % 12) + 0.5) / (axis ? 8 : 12));
        const top = topAt(x, y);
        if (!top || !within(within_, top) || closest(top, `${NATIVE}, label, canvas`)) continue;
        let worth = top === within_ || matches(top, "html, body") ? 3 : ownText(top) ? 1 : 2;
        for (let at = top; at && !matches(at, "html, body"); at = above(at)) {
          if (listening.has(at)) worth -= within(at, element) ? 2 : 9;
        }
        if (worth > -3 && (best === null || worth > best.worth)) best = {x, y, worth};
      }
      return best && {x: best.x, y: best.y};
    },

    // From where to where to drag a control: to what takes drops, to the next thing that can be dragged, or just away.
    route: (index) => {
      const element = current(index);
      const middle = (one) => { const box = rect(one); return [box.left + box.width / 2, box.top + box.height / 2]; };
      const [x, y] = middle(element);
      const to = matches(element, "[draggable=true]") && (all().find((one) => receiving.has(one) && visible(one) &&
        one !== element && !contains(one, element) && !matches(one, "html, body")) ??
        all().find((one) => matches(one, "[draggable=true]") && one !== element && visible(one)));
      const {width, height} = rect(element);
      const [dx, dy] = tag(element) === "canvas" ? [width / 4, height / 5] : [120, 40];
      const [right, down] = to ? middle(to) : [x + dx < innerWidth ? x + dx : x - dx, y + dy < innerHeight ? y + dy : y - dy];
      return {x, y, right, down};
    },
    gestures: (index) => gestures.get(current(index)) ?? [],
    moves: (index) => pressed.has(current(index)) || matches(current(index), "[draggable=true]"),

    // Buttons by which what was typed may be sent: those of its forms, else any, three at most.
    senders: () => {
      const buttons = controls.map((element, index) => [element, index]).filter(([element]) => kind(element) === "button");
      const submits = buttons.filter(([element]) => ["submit", "image"].includes(own(element, "type")) && own(element, "form"));
      return (submits.length ? submits : buttons).map(([, index]) => index).slice(0, 3);
    },

    // The button that Enter in a field clicks, -1 if there is none.
    submitter: (index) => {
      const form = own(controls[index], "form");
      return controls.findIndex((element) => form && own(element, "form") === form && kind(element) === "button" &&
        ["submit", "image"].includes(own(element, "type")));
    },

    // All that stands in the first editable text becomes its selection, for buttons that format it.
    selectEdited: () => {
      const edited = controls.find((element) => isConnected(element) && element.isContentEditable);
      const field = edited ?? controls.find((element) => isConnected(element) && tag(element) === "textarea");
      if (!field) return false;
      focus(field, {preventScroll: true});
      if (edited) getSelection().selectAllChildren(edited);
      else field.select();
      return true;
    },

    // Letters of the largest word that stands alone, for games in which one types what is shown.
    word: () => {
      const sized = all().filter((element) => element instanceof HTMLElement && shown(element) && /^[a-z]{2,12}$/i.test(innerText(element)?.trim() ?? ""))
        .map((element) => [parseFloat(getComputedStyle(element).fontSize), innerText(element).trim()]);
      const largest = sized.reduce((one, other) => (other[0] > one[0] ? other : one), [23, ""]);
      return [...largest[1]];
    },

    // Keys together that the page tells of, such as Ctrl+K, as Playwright names them.
    chords: () => {
      const names = {ctrl: "Control", strg: "Control", cmd: "Meta", command: "Meta", alt: "Alt", shift: "Shift"};
      const found = innerText(body() ?? documentElement()).matchAll(/\b(ctrl|strg|cmd|command|alt|shift)\s*\+\s*([a-z0-9])\b/gi);
      return [...new Set([...found].map(([, first, last]) => `${names[first.toLowerCase()]}+${last.toLowerCase()}`))].slice(0, 4);
    },

    focus: (index) => { if (current(index) instanceof HTMLElement) focus(current(index), {preventScroll: true}); },
    active: () => controls.indexOf(focused()),
    value: (index) => {
      const element = controls[index];
      const text = element.isContentEditable ? innerText(element) : "";
      return JSON.stringify([own(element, "value"), own(element, "checked"), text]);
    },
    expectedByTab: () => controls.flatMap((element, index) =>
      own(element, "type") === "radio" || kind(element) === "drag" ? [] : [index]),

    text: (index) => fitting(controls[index]),
    typed: () => controls.filter((element) => kind(element) === "text").map(fitting),
    select: (index) => { controls[index].select?.(); },

    // Choose another value of a field that is not typed into; true if it took it.
    set: (index) => {
      const element = controls[index];
      const earlier = element.value;
      if (tag(element) === "select") {
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
      return element.value !== earlier;
    },
  };
})();
"loaded";
