// What a person can read on a page, as blocks of text with their places, and which kinds of things are on it.
(() => {
  "use strict";
  const MAX_NODES = 6000; // Of very long pages the beginning is read.
  const MIN_SIZE = 9; // CSS pixels of type below which nobody reads.
  const USABLE = "button, a[href], summary, label, select, textarea, input, [contenteditable=''], [contenteditable=true], " +
    "[role=button], [role=link], [role=tab], [role=menuitem], [role=switch], [role=checkbox], [role=radio], [role=option]";
  const {parentOf, rootOf, contains, shadow, slotOf, tag, matches, closest, rect: boxOf, checkVisibility,
         elementFromPoint} = dom;
  const [body, root] = [dom.body(), dom.documentElement()];

  const shown = (element) => checkVisibility(element, {opacityProperty: true, visibilityProperty: true});
  const above = (element) => slotOf(element) ?? parentOf(element) ?? rootOf(element).host ?? null;
  const chain = function* (element) { for (let at = element; at; at = above(at)) yield at; };
  const alpha = (color) => {
    if (color === "transparent") return 0;
    const parts = color.match(/[\d.]+%?/g) ?? [];
    return parts.length > 3 ? parseFloat(parts[3]) : 1;
  };

  // The part of a box that no ancestor cuts off, in the window; null if nothing is left of it.
  const uncut = (element, box) => {
    let {left, top, right, bottom} = box;
    let opacity = 1;
    for (const at of chain(element)) {
      const style = getComputedStyle(at);
      opacity *= parseFloat(style.opacity);
      if (style.clip !== "auto" && style.position === "absolute" || opacity < 0.3) return null;
      if (at === body || at === root || style.display === "inline") continue;
      if (style.overflowX === "visible" && style.overflowY === "visible") continue;
      const edge = boxOf(at);
      const scrolls = (how) => how === "auto" || how === "scroll";
      if (!scrolls(style.overflowX)) [left, right] = [Math.max(left, edge.left), Math.min(right, edge.right)];
      if (!scrolls(style.overflowY)) [top, bottom] = [Math.max(top, edge.top), Math.min(bottom, edge.bottom)];
    }
    const whole = box.width * box.height;
    const rest = Math.max(0, right - left) * Math.max(0, bottom - top);
    if (rest < whole / 2 || right + scrollX <= 0 || bottom + scrollY <= 0 || left + scrollX >= innerWidth) return null;
    return {left, top, right, bottom};
  };

  // Whether another element lies over the middle of a box; outside of the window nobody knows.
  const covered = (element, box) => {
    const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
    if (x < 0 || y < 0 || x >= innerWidth || y >= innerHeight) return false;
    let top = elementFromPoint(x, y);
    for (let inner = top; inner; ) {
      top = inner;
      inner = shadow(top)?.elementFromPoint(x, y);
      if (inner === top) break;
    }
    if (!top || getComputedStyle(element).pointerEvents === "none" || closest(element, "label")) return false;
    const label = closest(top, "label");
    return ![...chain(top)].includes(element) && ![...chain(element)].includes(top) && !(label && contains(label, element));
  };

  const readable = (element, rects) => {
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    if (!shown(element) || size < MIN_SIZE) return null;
    const painted = style.backgroundClip.includes("text") || element instanceof SVGElement;
    if (!painted && (alpha(style.color) < 0.3 || alpha(style.webkitTextFillColor) < 0.3)) return null;
    for (const rect of rects) {
      const box = rect.width > 1 && rect.height > 1 ? uncut(element, rect) : null;
      if (box) return covered(element, box) ? null : box;
    }
    return null;
  };

  const usable = (element) => closest(element, USABLE) ??
    (getComputedStyle(element).cursor === "pointer" ? element : null);
  const block = (element) => {
    for (const at of chain(element)) {
      if (matches(at, USABLE) || !getComputedStyle(at).display.startsWith("inline")) return at;
    }
    return element;
  };

  const blocks = new Map(); // Element -> {text, control, boxes}.
  const add = (home, text, control, box) => {
    const found = blocks.get(home) ?? {text: "", control, boxes: []};
    found.text = `${found.text} ${text}`.trim();
    found.control ||= control;
    found.boxes.push([box.left + scrollX, box.top + scrollY, box.right + scrollX, box.bottom + scrollY]);
    blocks.set(home, found);
  };
  const kinds = new Set();
  const note = (element) => {
    const found = kindsOf(element);
    const fresh = found.filter((kind) => !kinds.has(kind));
    if (fresh.length && uncut(element, boxOf(element))) for (const kind of fresh) kinds.add(kind);
  };
  let bars = 0;
  const kindsOf = (element) => {
    const kinds = new Set();
    const is = (selector) => matches(element, selector);
    if (is("button, [role=button], input[type=submit], input[type=button], input[type=reset]")) kinds.add("button");
    if (is("a[href]")) kinds.add("link");
    if (is("[role=tab]")) kinds.add("tab");
    if (is("table, [role=table], [role=grid]") || getComputedStyle(element).display === "table") kinds.add("table");
    if (is("select, [role=listbox], [role=combobox], [aria-haspopup]")) kinds.add("select");
    if (is("input[type=range], [role=slider]")) kinds.add("slider");
    if (is("input[type=checkbox], [role=checkbox], [role=switch], [aria-pressed]")) kinds.add("checkbox");
    if (is("input[type=radio], [role=radio]")) kinds.add("radio");
    if (is("textarea, [contenteditable=''], [contenteditable=true]")) kinds.add("textarea").add("field");
    if (is("input:not([type=checkbox], [type=radio], [type=range], [type=submit], [type=button], [type=hidden])")) {
      kinds.add("field");
    }
    const box = boxOf(element);
    const sized = element instanceof HTMLElement && (element.style.height || element.style.width || element.style.flexBasis) &&
      alpha(getComputedStyle(element).backgroundColor) >= 0.3;
    if (is("meter, progress") || sized && ++bars >= 3) kinds.add("chart"); // Charts of plain elements.
    if (box.width * box.height >= 1000) {
      if (is("canvas, svg")) kinds.add("chart").add("picture");
      if (is("img, picture") || getComputedStyle(element).backgroundImage !== "none") kinds.add("picture");
      if (is("video")) kinds.add("video");
      if (is("audio")) kinds.add("audio");
    }
    return [...kinds];
  };

  let looked = 0;
  const walk = (from) => {
    const nodes = dom.createTreeWalker(from, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
    const range = dom.createRange();
    for (let node = nodes.nextNode(); node && looked++ < MAX_NODES; node = nodes.nextNode()) {
      if (node.nodeType === Node.ELEMENT_NODE) {
        if (shadow(node)) walk(shadow(node));
        if (matches(node, "script, style, template, noscript") || !shown(node)) continue;
        note(node);
        if (!matches(node, "input, textarea, select")) continue;
        const kept = ["submit", "button", "reset"].includes(node.type) ? node.value : node.placeholder;
        const text = tag(node) === "select" ? [...node.options].map((one) => one.label).join(" ") : kept;
        const box = text && !matches(node, "[type=checkbox], [type=radio], [type=range], [type=hidden]") &&
          readable(node, [boxOf(node)]);
        if (box) add(node, text, true, box);
        continue;
      }
      const element = node.parentElement;
      if (!element || !node.data.trim() || closest(element, "script, style, template, noscript, option, textarea")) continue;
      range.selectNodeContents(node);
      const box = readable(element, range.getClientRects());
      if (box) add(block(element), node.data.replace(/\s+/g, " "), usable(element) !== null, box);
    }
  };
  if (body) walk(body);
  return {blocks: [...blocks.values()], kinds: [...kinds], height: root.scrollHeight};
})()
