// Random numbers by a fixed seed: mulberry32, a public-domain generator with 32 bits of state.
(() => {
  let state = 0x2f6e2b1;
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
  Math.random = random;
  // What a person sees in a closed shadow tree is seen here too.
  const attach = Element.prototype.attachShadow;
  Element.prototype.attachShadow = function attachShadow(how) { return attach.call(this, {...how, mode: "open"}); };
  Crypto.prototype.getRandomValues = (array) => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    for (let index = 0; index < bytes.length; index++) bytes[index] = Math.floor(random() * 256);
    return array;
  };
  Crypto.prototype.randomUUID = () => {
    const hex = Array.from({length: 32}, () => Math.floor(random() * 16).toString(16)).join("");
    return [hex.slice(0, 8), hex.slice(8, 12), "4" + hex.slice(13, 16), "a" + hex.slice(17, 20), hex.slice(20)]
      .join("-");
  };
})();
