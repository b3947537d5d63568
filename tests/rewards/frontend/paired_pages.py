"""Honest pages that are used in a way of their own, each beside the same page in which that does nothing."""
# ruff: noqa: E501 - lines of documents are long

from documents import document

Pair = tuple[str, str]


def pair(body: str, script: str, alive: str, dead: str = "0") -> Pair:
    """The page with `WORK` in its script as it should be, and as it does nothing."""
    page = f"<main>{body}</main><script>{script}</script>"
    assert "WORK" in script
    return document(page.replace("WORK", alive)), document(page.replace("WORK", dead))


PAIRS: dict[str, Pair] = {
    "stopwatch": pair(
        "<h1>Stopwatch</h1><p>For runners</p><p><b id='t'>0</b> seconds</p><button id='a'>Start</button> <button id='b'>Stop</button>"
        " <button id='c'>Reset</button>",
        "let n = 0, h = 0; const show = () => { t.textContent = n; }; a.onclick = () => { WORK; }; b.onclick = () => { clearInterval(h);"
        " h = 0; }; c.onclick = () => { clearInterval(h); h = 0; n = 0; show(); };",
        "h ||= setInterval(() => { n++; show(); }, 1000)",
    ),
    "countdown": pair(
        "<h1>Tea</h1><p>How long it draws</p><p id='t'>3:00</p><button id='a'>Start</button> <button id='b'>Pause</button>",
        "let left = 180, h = 0, end = 0; a.onclick = () => { if (h) return; end = Date.now() + left * 1000; h = setInterval(() => {"
        " left = Math.ceil((end - Date.now()) / 1000); WORK; }, 250); }; b.onclick = () => { clearInterval(h); h = 0; };",
        "t.textContent = Math.floor(left / 60) + ':' + String(left % 60).padStart(2, '0')",
    ),
    "double click": pair(
        "<h1>Notes</h1><p>Double-click the board for a note.</p><div id='b' style='height: 300px; background: #ffd'></div>",
        "b.ondblclick = (e) => { WORK; };",
        "const n = document.createElement('p'); n.textContent = 'New note'; b.append(n)",
    ),
    "right click": pair(
        "<h1>Seeds</h1><p>Right-click one to strike it out.</p><p id='s'>Carrots</p><p>Peas</p>",
        "s.oncontextmenu = (e) => { e.preventDefault(); WORK; };",
        "s.textContent = 'Carrots, sown'",
    ),
    "wheel": pair(
        "<h1>Map</h1><p>Zoom: <b id='z'>100</b> percent</p><div id='v' style='width: 300px; height: 200px; background: #cde'>Lake</div>",
        "let z = 100; v.addEventListener('wheel', (e) => { e.preventDefault(); z += e.deltaY < 0 ? 20 : -20; WORK; }, {passive: false});",
        "document.getElementById('z').textContent = z",
    ),
    "formatting": pair(
        "<h1>Letter</h1><p>Write it</p><div contenteditable='true' id='e' aria-label='Letter' style='border: 1px solid'>Dear reader</div>"
        "<p id='n'>0 letters</p><button id='b'>Bold</button>",
        "e.oninput = () => { n.textContent = e.textContent.length + ' letters'; }; b.onclick = () => { WORK; };",
        "document.execCommand('bold')",
    ),
    "target on a canvas": pair(
        "<h1>Catch</h1><p>Click the disc</p><canvas id='k' width='480' height='300'></canvas>",
        "const c = k.getContext('2d'); let x = 400, y = 230, hits = 0; const draw = () => { c.fillStyle = '#fed'; c.fillRect(0, 0, 480, 300);"
        " c.fillStyle = '#a22'; c.beginPath(); c.arc(x, y, 24, 0, 7); c.fill(); c.fillText('Hits ' + hits, 10, 20); }; draw(); k.onclick ="
        " (e) => { if (Math.hypot(e.offsetX - x, e.offsetY - y) < 24) { WORK; } };",
        "hits++; x = 90; y = 80; draw()",
    ),
    "typed letters": pair(
        "<h1>Typing</h1><p>Type what you see: a word.</p><p id='w' style='font-size: 44px'>pebble</p><p>Letters: <b id='n'>0</b></p>",
        "let i = 0; onkeydown = (e) => { if (e.key === 'pebble'[i]) { i++; WORK; } };",
        "document.getElementById('n').textContent = i",
    ),
    "patterns of fields": pair(
        "<h1>Loan</h1><p>What it costs</p><form id='f'><label>Amount <input id='a' required pattern='[0-9]{4,7}'></label> <label>Rate <input"
        " id='r' required pattern='[0-9]+([.][0-9]+)?' placeholder='3.5'></label> <button>Work out</button></form><p id='o'>Nothing yet</p>",
        "f.onsubmit = (e) => { e.preventDefault(); WORK; };",
        "o.textContent = 'Each month ' + (a.value * r.value / 1200).toFixed(2)",
    ),
    "step after step": pair(
        "<h1>Join</h1><p>First of two</p><label>Postal code <input id='p'></label> <button id='n' disabled>Next</button><p id='o'>Not yet</p>",
        "p.oninput = () => { if (/^\\d{5}$/.test(p.value)) { WORK; } };",
        "n.disabled = false; n.style.background = '#262'; o.textContent = 'Go on'",
    ),
    "colour of a scene": pair(
        "<h1>Scene</h1><p>A plain one</p><canvas id='k' width='400' height='240'></canvas><p><button id='b'>Colour</button></p>",
        "const g = k.getContext('webgl'); let c = [0.9, 0.4, 0.2]; (function frame() { g.clearColor(...c, 1); g.clear(16384);"
        " requestAnimationFrame(frame); })(); b.onclick = () => { WORK; };",
        "c = [0.1, 0.2, 0.8]",
    ),
    "keys together": pair(
        "<h1>Palette</h1><p>Press Ctrl+K for commands.</p><p>There are three.</p><p id='o'>Closed</p>",
        "onkeydown = (e) => { if (e.ctrlKey && e.key === 'k') { e.preventDefault(); WORK; } };",
        "o.textContent = 'New note, dark mode, help'",
    ),
    "divs of a delegating page": pair(
        "<style>.c { cursor: pointer; padding: 9px; background: #def }</style><h1>Birds</h1><div class='c'>Tern</div><div class='c'>Gull"
        "</div><p id='o'>Choose one</p>",
        "document.addEventListener('click', (e) => { if (e.target.className === 'c') { WORK; } });",
        "o.textContent = 'A ' + e.target.textContent + ' eats fish'",
    ),
    "preview in a frame": pair(
        "<h1>Page</h1><p>What you write is shown below.</p><textarea id='t' aria-label='HTML'></textarea><iframe id='f' title='Preview'"
        " style='width: 400px; height: 160px; border: 1px solid'></iframe>",
        "t.oninput = () => { WORK; };",
        "f.srcdoc = `<h1 style='font-size: 60px; background: #fc6'>${t.value}</h1>`",
    ),
    "second wrong answer": pair(
        "<h1>Capital of Peru?</h1><p>Choose</p><button>Lima</button> <button>Quito</button> <button>Bogota</button><p id='o'>Your answer</p>",
        "for (const b of document.querySelectorAll('button')) b.onclick = () => { WORK; };",
        "o.textContent = b.textContent === 'Lima' ? 'Right' : 'Wrong'",
    ),
    "spinner": pair(
        "<h1>Plates</h1><p>Are they valid?</p><p id='o'>Nobody asked</p><button id='b'>Check</button>",
        "b.onclick = () => setTimeout(() => { WORK; }, 2000);",
        "o.textContent = 'All are valid'",
    ),
}

HOVER_MENU = document(
    "<style>li ul { display: none } li:hover ul { display: block }</style><main><h1>Tools</h1><p>For gardens</p><p>and fields</p><ul>"
    "<li><a href='#a'>Products</a><ul><li><a href='#b'>Spades</a></li></ul></li></ul></main>"
)
CLOSED_SHADOW = document(
    "<main id='m'></main><script>const s = m.attachShadow({mode: 'closed'}); s.innerHTML = `<h1>Count</h1><p>Up</p><p id='n'>0</p>"
    "<button>Up</button>`; let n = 0; s.querySelector('button').onclick = () => { s.querySelector('#n').textContent = ++n; };</script>"
)
LATE = document(
    "<main id='m'>Loading</main><script>setTimeout(() => { m.innerHTML = '<h1>Shop</h1><p>Tea</p><p>Cake</p><p>Bread</p>'; }, 1500);</script>"
)
PICTURES = document(
    "<main><h1>Trip</h1><p>In May</p><p>and June</p>"
    + "".join(f"<img src='https://picsum.photos/id/{one}/200' alt='Lake'>" for one in range(8))
    + "</main>"
)
TEMPLATES = document(
    "<main id='m'></main><script type='module'>import React from 'https://esm.sh/react@19'; import {createRoot} from"
    " 'https://esm.sh/react-dom@19/client'; import htm from 'https://esm.sh/htm@3'; const html = htm.bind(React.createElement);"
    "createRoot(m).render(html`<div><h1>List</h1><p>Tea</p><p>Cake</p><p>Bread</p></div>`);</script>"
)

ODD_NAMES = document(
    "<main><h1>Contact</h1><p>Write to us</p><form id='f'><label>First name <input name='parentNode' required></label> <label>Mail <input"
    " type='email' name='submit' required></label><button name='nodeName'>Send</button></form><p id='o'>Waiting</p></main><script>"
    "document.getElementById('f').onsubmit = (e) => { e.preventDefault(); o.textContent = 'Thank you, ' + new"
    " FormData(e.target).get('parentNode'); };</script>"
)
"""Names of fields that axe-core fails on."""
LOG_IN = document(
    "<main id='m'><h1>Log in</h1><p>For members</p><form id='f'><label>Name <input id='u' required></label> <label>Password <input"
    " id='p' type='password' required></label><button>Log in</button></form><p id='e'>Closed</p></main><script>f.onsubmit = (v) => {"
    " v.preventDefault(); e.textContent = u.value === 'demo' ? 'Welcome' : 'Wrong name or password'; };</script>"
)
"""Enter says that the password is wrong, and the button then says the same."""
