// The document as it is, whatever a page calls its fields and elements. Runs in the probe's world, before everything else.
globalThis.dom = (() => {
  "use strict";
  // Fields of a form hide its properties, `<input name="children">` for one, and named elements those of the document, in
  // every world. What was taken from the prototypes cannot be hidden.
  const read = (type, name) => {
    const {get} = Object.getOwnPropertyDescriptor(type.prototype, name);
    return (object) => Reflect.apply(get, object, []);
  };
  const call = (type, name) => {
    const method = type.prototype[name];
    return (object, ...given) => Reflect.apply(method, object, given);
  };
  const of = (name) => { const get = read(Document, name); return () => get(document); };
  const by = (name) => { const method = call(Document, name); return (...given) => method(document, ...given); };
  const [parentOf, rootOf, isConnected, contains] =
    [read(Node, "parentElement"), call(Node, "getRootNode"), read(Node, "isConnected"), call(Node, "contains")];
  const [tag, shadow, slotOf, before, children] = ["localName", "shadowRoot", "assignedSlot", "previousElementSibling",
    "children"].map((name) => read(Element, name));
  const childNodes = read(Node, "childNodes");
  const [matches, closest, attribute, query, find] = ["matches", "closest", "getAttribute", "querySelectorAll",
    "querySelector"].map((name) => call(Element, name));
  const [rect, rects, checkVisibility, scrollIntoView] = ["getBoundingClientRect", "getClientRects", "checkVisibility",
    "scrollIntoView"].map((name) => call(Element, name));
  const [body, documentElement, activeElement, readyState, images, scroller, fullscreen] = ["body", "documentElement",
    "activeElement", "readyState", "images", "scrollingElement", "fullscreenElement"].map(of);
  const [elementFromPoint, createElement, createRange, createTreeWalker, getAnimations, byId, byTag] = ["elementFromPoint",
    "createElement", "createRange", "createTreeWalker", "getAnimations", "getElementById",
    "getElementsByTagName"].map(by);
  const [focus, blur, innerText] = [call(HTMLElement, "focus"), call(HTMLElement, "blur"), read(HTMLElement, "innerText")];
  const own = (element, name) => element instanceof HTMLFormElement ? undefined : element[name]; // Of fields.

  return {parentOf, rootOf, isConnected, contains, tag, shadow, slotOf, before, childNodes, children, matches, closest,
          attribute, query, find, rect, rects, checkVisibility, scrollIntoView, body, documentElement, activeElement, readyState,
          images, scroller, fullscreen, elementFromPoint, createElement, createRange, createTreeWalker, getAnimations, byId,
          byTag, focus, blur, innerText, own};
})();
