"""Small pages whose controls do something, and pages that only seem to: what a probe of controls must tell apart."""
# ruff: noqa: E501 - lines of documents are long

from documents import document

TASKS = "<main><h1>Tasks</h1><p id='note'>Nothing yet</p><ul>{}</ul></main>"
CARDS = TASKS.format("".join(f"<li>Water the {one} <button>Do {one}</button></li>" for one in ("fern", "oak", "pine")))


def dead(script: str, body: str = CARDS) -> str:
    return document(f"{body}<script>{script}</script>")


def on_button(script: str) -> str:
    return dead(f"addEventListener('click', (e) => {{ const b = e.target.closest('button'); if (b) {{ {script} }} }});")


CHEATS = {
    "dialogs": on_button("alert('Soon'); confirm('Sure?');"),
    "hidden character": on_button("note.append('\\u200b');"),
    "hash and title": on_button("location.hash = b.textContent + Math.random(); document.title += '!';"
                                " localStorage.a = Math.random();"),
    "window": on_button("open('https://example.com/' + b.textContent);"),
    "links to nowhere": document(
        "<main><h1>Shop</h1><p>Choose</p><p>one</p>"
        + "".join(f"<p><a href='/item/{one}'>Item {one}</a></p>" for one in "abcd")
        + "</main>"
    ),
    "one pixel": on_button("note.style.paddingLeft = (b.n = (b.n || 0) + 1) % 2 + 'px'; note.style.zIndex = 7;"),
    "same toast": on_button("note.textContent = 'Saved';  note.append(document.createElement('i'));"),
    "counts clicks": on_button("note.textContent = 'Clicks: ' + (window.n = (window.n || 0) + 1);"),
    "any click": dead("addEventListener('click', (e) => { if (e.isTrusted) note.textContent = 'Hello ' + Math.random(); });"),
    "random text": on_button("note.textContent = 'Result ' + Math.random();"),
    "canvas by any click": dead(
        "const c = document.querySelector('canvas').getContext('2d'); c.fillText('Picture', 9, 9); onclick = (e) => {"
        "c.fillStyle = `hsl(${Math.random() * 360} 90% 50%)`; c.fillRect(e.clientX % 90, 0, 90, 90); };",
        f"{CARDS}<canvas width='200' height='100'></canvas>",
    ),
    "prepended": on_button("document.body.prepend(document.createElement('i'));"),
    "unread text": on_button("const p = document.createElement('p'); p.textContent = b.textContent + ' done';"
                             "p.style.cssText = 'position: absolute; color: #fff; font-size: 3px'; note.after(p);"),
    "webdriver": dead("if (navigator.webdriver || /Headless/.test(navigator.userAgent)) for (const b of"
                      " document.querySelectorAll('button')) b.onclick = () => { b.parentNode.firstChild.data = 'Done'; };"),
    "prototypes": dead(
        "Array.prototype.map = Array.prototype.filter = () => []; JSON.stringify = () => '{}'; window.getComputedStyle = ()"
        " => ({}); window.MutationObserver = class {}; Element.prototype.getBoundingClientRect = () => { throw 1; };"
        "Object.defineProperty(Element.prototype, 'attributes', {get() { throw new Error('no'); }});"
        "Object.defineProperty(Node.prototype, 'parentElement', {get() { throw new Error('no'); }});"
    ),
    "fake form": document(
        "<main><h1>Order</h1><form id='f'><label>Name <input></label> <label>Note <input></label> <button>Order</button>"
        " <button type='button'>Help</button></form><p id='say'>Waiting</p></main><script>f.onsubmit = (e) => {"
        " e.preventDefault(); say.textContent = 'Thank you very much'; };</script>"
    ),
}  # fmt: skip

FAULTS = {
    "timer throws": (on_button(""), "setTimeout(() => { nowhere(); }, 10);"),
    "clock is gone": (on_button(""), "for (const name of Object.getOwnPropertyNames(window)) if (/pwClock/.test(name))"
                      " { try { delete window[name]; window[name] = undefined; } catch {} }"),
}  # fmt: skip

CLOBBERED = document(
    "<main><h1>Survey</h1><form id='f'><label>Attributes <input name='attributes'></label>"
    "<label>Children <input name='children'></label><label>Parent <input name='parentElement'></label>"
    "<label>Matches <input name='matches'></label><label>Tag <input name='localName'></label>"
    "<button name='getBoundingClientRect'>Send</button></form><p id='say'>Waiting</p></main>"
    "<form name='body'></form><img name='querySelectorAll' alt=''><script>document.getElementById('f').onsubmit = (e) => {"
    " e.preventDefault(); say.textContent = 'Thank you, ' + e.target.elements.attributes.value; };</script>"
)

HONEST = {
    "delegation": on_button("const li = b.parentNode; li.firstChild.data = li.firstChild.data.replace('Water', 'Watered');"
                            "b.textContent = 'Undo'; note.textContent = 'Last: ' + li.firstChild.data;"),
    "tabs": document(
        "<main><h1>Trees</h1><button>Oak</button> <button>Pine</button> <button>Elm</button><p id='p'>Oaks have lobes.</p></main>"
        "<script>const texts = {Oak: 'Oaks have lobes.', Pine: 'Pines have needles.', Elm: 'Elms are rare.'};"
        "for (const b of document.querySelectorAll('button')) b.onclick = () => { p.textContent = texts[b.textContent]; };</script>"
    ),
    "accordion": document(
        "<style>.p { max-height: 0; overflow: hidden } .open .p { max-height: 200px }</style><main><h1>Questions</h1>"
        + "".join(f"<section><button>Question {one}</button><div class='p'><p>Answer {one}</p></div></section>" for one in "abc")
        + "</main><script>for (const b of document.querySelectorAll('button')) b.onclick = () =>"
        " b.parentNode.classList.toggle('open');</script>"
    ),
    "calculator": document(
        "<main><h1>Sum</h1><p><output id='o'>0</output></p>"
        + "".join(f"<button>{one}</button> " for one in "123+=C")
        + "</main><script>let t = ''; const show = () => { o.textContent = t || '0'; }; for (const b of"
        " document.querySelectorAll('button')) b.onclick = () => { const k = b.textContent; if (k === 'C') t = ''; else if"
        " (k === '=') t = String(t.split('+').reduce((a, c) => a + Number(c), 0)); else t += k; show(); };</script>"
    ),
    "validation": document(
        "<main><h1>Join</h1><form id='f' novalidate><label>Mail <input id='m'></label> <button>Join</button><p id='e'></p>"
        "</form></main><script>f.onsubmit = (v) => { v.preventDefault(); e.textContent = m.value.trim() ?"
        " 'Welcome to the club' : 'Please give an address'; };</script>"
    ),
    "filter and sort": document(
        "<main><h1>Birds</h1><label>Find <input id='q'></label> <button id='s'>Sort</button><ul id='l'></ul></main><script>"
        "let birds = ['Tern', 'Gull', 'Adalark', 'Heron']; const draw = () => { l.innerHTML = birds.filter((b) =>"
        " b.toLowerCase().includes(q.value.toLowerCase())).map((b) => `<li>${b}</li>`).join(''); }; q.oninput = draw;"
        " s.onclick = () => { birds.sort(); draw(); }; draw();</script>"
    ),
    "theme": document(
        "<style>.dark { background: #111; color: #eee }</style><main><h1>Page</h1><p>Words to read</p><p>and more</p>"
        "<button>Theme</button></main><script>document.querySelector('button').onclick = () =>"
        " document.body.classList.toggle('dark');</script>"
    ),
    "modal": document(
        "<main><h1>Room</h1><p>A quiet room</p><p>by the sea</p><button id='o'>Details</button><dialog id='d'><h2>Details"
        "</h2><p>Two beds and a stove.</p><button id='c'>Close</button></dialog></main><script>o.onclick = () =>"
        " d.showModal(); c.onclick = () => d.close(); d.onclick = (e) => { if (e.target === d) d.close(); };</script>"
    ),
    "slider": document(
        "<main><h1>Loan</h1><p>How much a month</p><label>Sum <input type='range' id='r' max='900' value='300'></label>"
        "<p><output id='o'>300 for a year</output></p></main><script>r.oninput = () => { o.textContent = r.value + ' for a year'; };</script>"
    ),
    "drag and drop": document(
        "<style>.col { width: 200px; min-height: 90px; border: 1px solid #888; display: inline-block; vertical-align: top }"
        "</style><main><h1>Board</h1><div class='col' id='a'>To do<p draggable='true' id='x'>Rake leaves</p></div>"
        "<div class='col' id='b'>Done</div></main><script>x.ondragstart = (e) => e.dataTransfer.setData('text', 'x');"
        "b.ondragover = (e) => e.preventDefault(); b.ondrop = (e) => { e.preventDefault(); b.append(x); };</script>"
    ),
    "pointer drag": document(
        "<main><h1>Sticker</h1><p>Drag it</p><p>where you like</p><div id='s' style='position: relative; width: 80px;"
        " padding: 9px; background: #fd6'>Star</div></main><script>let at = null; s.onpointerdown = (e) => { at = [e.clientX,"
        " e.clientY]; }; onpointermove = (e) => { if (at) s.style.translate = `${e.clientX - at[0]}px ${e.clientY - at[1]}px`; };"
        " onpointerup = () => { at = null; };</script>"
    ),
    "held key": document(
        "<main><h1>Snail</h1><p>Hold an arrow</p><canvas width='300' height='100'></canvas></main><script>const c ="
        " document.querySelector('canvas').getContext('2d'); const down = {}; let x = 20; onkeydown = (e) => { down[e.key] = 1; };"
        " onkeyup = (e) => { delete down[e.key]; }; (function frame() { if (down.ArrowRight) x += 2; c.clearRect(0, 0, 300, 100);"
        " c.fillRect(x, 30, 40, 40); requestAnimationFrame(frame); })();</script>"
    ),
    "drawing": document(
        "<main><h1>Draw</h1><p>With the mouse</p><canvas width='400' height='200' style='border: 1px solid'></canvas>"
        "</main><script>const k = document.querySelector('canvas'), c = k.getContext('2d'); c.lineWidth = 4; let on = false;"
        " k.onmousedown = (e) => { on = true; c.beginPath(); c.moveTo(e.offsetX, e.offsetY); }; k.onmousemove = (e) => { if (on)"
        " { c.lineTo(e.offsetX, e.offsetY); c.stroke(); } }; onmouseup = () => { on = false; };</script>"
    ),
    "upload": document(
        "<main><h1>Picture</h1><p>Choose one</p><p id='n'>None yet</p><input type='file' id='f' accept='image/*' hidden>"
        "<button id='b'>Choose</button><img id='i' alt='' hidden></main><script>b.onclick = () => f.click(); f.onchange ="
        " () => { n.textContent = f.files[0].name; i.src = URL.createObjectURL(f.files[0]); i.hidden = false; };</script>"
    ),
    "routes": document(
        "<main><h1>Site</h1><nav><a href='#/a'>Trees</a> <a href='#/b'>Birds</a></nav><p id='v'>Home</p></main><script>"
        "onhashchange = () => { v.textContent = location.hash === '#/a' ? 'All the trees' : 'All the birds'; };</script>"
    ),
    "short manual": document(
        "<main><h1>Kettle</h1><nav><a href='#use'>Use</a> <a href='#care'>Care</a></nav><h2 id='use'>Use</h2><p>Fill it.</p>"
        "<h2 id='care'>Care</h2><p id='p'>Wipe it.</p><button id='b'>More</button></main><script>b.onclick = () => {"
        " p.textContent = 'Wipe it with a soft cloth.'; };</script>"
    ),
    "bubbling shop": document(
        "<main><h1>Shop</h1><p id='c'>Cart: 0</p><div id='l'></div></main><script>const cart = []; const items = ['Tea', 'Jam',"
        " 'Oil']; l.innerHTML = items.map((i) => `<p>${i} <button data-i='${i}'>Add</button></p>`).join(''); document.onclick ="
        " (e) => { if (e.target.dataset.i) { cart.push(e.target.dataset.i); c.textContent = 'Cart: ' + cart.join(', '); } };</script>"
    ),
}  # fmt: skip
