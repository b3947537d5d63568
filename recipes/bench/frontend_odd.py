"""Honest pages of kinds that a headless browser has trouble with, each as a person would be content with it.

Libraries from content delivery networks, animations, WebGL, media, shadow DOM, scripts of the world, games, storage, huge
documents: none of them may be rejected.
"""

# Lines of a document are long.
# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Mapping

_STYLE = """body { font-family: system-ui, sans-serif; margin: 0; padding: 2rem; background: #f7f7fb; color: #1d2433; }
main { max-width: 960px; margin: 0 auto; } button { padding: .5rem 1rem; } canvas { max-width: 100%; display: block; }"""


def _page(title: str, body: str, head: str = "", css: str = "", html: str = 'lang="en"') -> str:
    return (
        f'<!DOCTYPE html>\n<html {html}>\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, '
        f'initial-scale=1">\n<title>{title}</title>\n{head}\n<style>\n{_STYLE}\n{css}\n</style>\n</head>\n<body>\n{body}\n'
        "</body>\n</html>\n"
    )


def _text(title: str) -> str:
    return f"<h1>{title}</h1><p>A small page about {title.lower()}, with a few words to read.</p>"


def _src(*addresses: str) -> str:
    return "\n".join(
        f'<script src="{one}"></script>' if not one.endswith("css") else f'<link rel="stylesheet" href="{one}">'
        for one in addresses
    )


_COUNTER = '<p>Count: <output id="n">0</output></p><button id="b">Add one</button>'
_COUNT = 'let n = 0; document.getElementById("b").onclick = () => { document.getElementById("n").textContent = ++n; };'

# Drawing that never ends, once a frame; each is the body of `draw(c, w, h, t)`.
_DRAWINGS = {
    "particles": "c.fillStyle = '#0b1020'; c.fillRect(0, 0, w, h); for (let i = 0; i < 1500; i++) {"
    " c.fillStyle = `hsl(${i % 360} 80% 60%)`; c.beginPath();"
    " c.arc((i * 97 + t * (i % 7)) % w, (i * 53 + t * (i % 5)) % h, 2 + i % 3, 0, 7); c.fill(); }",
    "fractal": "const p = c.createImageData(w, h); for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {"
    " let a = 0, b = 0, k = 0; const u = x / w * 3.2 - 2.3 + Math.sin(t / 900) / 9, v = y / h * 2.4 - 1.2;"
    " while (k < 60 && a * a + b * b < 4) { [a, b] = [a * a - b * b + u, 2 * a * b + v]; k++; }"
    " p.data.set([k * 4, k * 2, 90 + k * 2, 255], (y * w + x) * 4); } c.putImageData(p, 0, 0);",
    "network": "c.fillStyle = '#fff'; c.fillRect(0, 0, w, h); const q = [...Array(160)].map((_, i) =>"
    " [(i * 131 + t / 20 * (i % 3 + 1)) % w, (i * 71 + t / 30) % h]); for (const a of q) for (const b of q) {"
    " const d = Math.hypot(a[0] - b[0], a[1] - b[1]); if (d < 90) { c.strokeStyle = `rgba(40, 60, 160, ${1 - d / 90})`;"
    " c.beginPath(); c.moveTo(...a); c.lineTo(...b); c.stroke(); } }",
    "blur": "c.filter = 'blur(6px)'; for (let i = 0; i < 60; i++) { c.fillStyle = `hsl(${i * 6 + t / 20} 90% 60%)`;"
    " c.fillRect((i * 61 + t / 9) % w, (i * 37) % h, 90, 90); } c.filter = 'none';",
}


def _drawing(title: str, code: str) -> str:
    script = (
        "const canvas = document.querySelector('canvas'), c = canvas.getContext('2d'); let paused = false;"
        f" function draw(c, w, h, t) {{ {code} }}"
        " function frame(t) { if (!paused) draw(c, canvas.width, canvas.height, t); requestAnimationFrame(frame); }"
        " requestAnimationFrame(frame); document.getElementById('p').onclick = (e) => { paused = !paused;"
        " e.target.textContent = paused ? 'Resume' : 'Pause'; };"
    )
    body = f'<main>{_text(title)}<canvas width="900" height="480"></canvas><button id="p">Pause</button></main>'
    return _page(title, f"{body}<script>{script}</script>")


_SHADER = (
    "precision highp float; uniform float t; uniform vec2 r; void main() { vec2 p = gl_FragCoord.xy / r * 2. - 1.; float s = 0.;"
    " for (int i = 0; i < STEPS; i++) { float k = float(i); s += .02 / length(p - vec2(cos(t + k), sin(t * .7 + k * 1.3)) * .8);"
    " } gl_FragColor = vec4(s * .5, s * .2, s * .8, 1.); }"
)


def _webgl(title: str, steps: int) -> str:
    script = (
        "const canvas = document.querySelector('canvas'), g = canvas.getContext('webgl'); const p = g.createProgram();"
        " for (const [k, s] of [[g.VERTEX_SHADER, 'attribute vec2 a; void main() { gl_Position = vec4(a, 0, 1); }'],"
        f" [g.FRAGMENT_SHADER, `{_SHADER.replace('STEPS', str(steps))}`]]) {{ const h = g.createShader(k);"
        " g.shaderSource(h, s); g.compileShader(h); g.attachShader(p, h); } g.linkProgram(p); g.useProgram(p);"
        " g.bindBuffer(g.ARRAY_BUFFER, g.createBuffer()); g.bufferData(g.ARRAY_BUFFER, new Float32Array([-1, -1, 3, -1, -1, 3]),"
        " g.STATIC_DRAW); g.enableVertexAttribArray(0); g.vertexAttribPointer(0, 2, g.FLOAT, false, 0, 0);"
        " (function frame(t) { canvas.width = innerWidth; canvas.height = innerHeight; g.viewport(0, 0, innerWidth, innerHeight);"
        " g.uniform1f(g.getUniformLocation(p, 't'), t / 1000); g.uniform2f(g.getUniformLocation(p, 'r'), innerWidth,"
        " innerHeight); g.drawArrays(g.TRIANGLES, 0, 3); requestAnimationFrame(frame); })(0);"
    )
    css = "body { padding: 0; overflow: hidden } canvas { position: fixed; inset: 0 } main { position: relative; color: #fff }"
    return _page(title, f"<canvas></canvas><main>{_text(title)}</main><script>{script}</script>", css=css)


def _three(module: bool) -> str:
    scene = (
        "const scene = new THREE.Scene(), camera = new THREE.PerspectiveCamera(60, innerWidth / innerHeight, .1, 100);"
        " camera.position.z = 4; const renderer = new THREE.WebGLRenderer({antialias: true});"
        " renderer.setSize(innerWidth, innerHeight); document.body.append(renderer.domElement);"
        " const shape = new THREE.Mesh(new THREE.TorusKnotGeometry(1, .35, 160, 24), new THREE.MeshStandardMaterial({color:"
        " 0x44aaff})); scene.add(shape, new THREE.AmbientLight(0xffffff, .6)); const light = new THREE.PointLight(0xffffff, 30);"
        " light.position.set(3, 3, 3); scene.add(light); const controls = new OrbitControls(camera, renderer.domElement);"
        " (function frame() { requestAnimationFrame(frame); shape.rotation.y += .01; controls.update();"
        " renderer.render(scene, camera); })();"
    )
    css = "body { padding: 0; overflow: hidden } main { position: absolute; padding: 1rem; color: #fff }"
    body = f"<main>{_text('A turning knot')}</main>"
    if module:
        imports = (
            '<script type="importmap">{"imports": {"three": "https://unpkg.com/three@0.160.0/build/three.module.js",'
            ' "three/addons/": "https://unpkg.com/three@0.160.0/examples/jsm/"}}</script>'
        )
        head = 'import * as THREE from "three"; import {OrbitControls} from "three/addons/controls/OrbitControls.js";'
        return _page("Knot", f'{body}<script type="module">{head} {scene}</script>', imports, css)
    files = _src(
        "https://cdnjs.cloudflare.com/ajax/libs/three.js/r128/three.min.js",
        "https://cdn.jsdelivr.net/npm/three@0.128.0/examples/js/controls/OrbitControls.js",
    )
    return _page("Knot", f"{body}<script>const OrbitControls = THREE.OrbitControls; {scene}</script>", files, css)


def _react(files: str, kind: str, imports: str, root: str) -> str:
    code = (
        f"{imports} function App() {{ const [items, setItems] = useState(['Milk', 'Bread']); const [text, setText] ="
        " useState(''); return <main><h1>Shopping</h1><p>What to bring home today.</p><form onSubmit={(e) =>"
        " { e.preventDefault(); if (text) setItems([...items, text]); setText(''); }}><label>Item <input value={text} onChange="
        "{(e) => setText(e.target.value)} /></label> <button>Add</button></form><ul>{items.map((item) => <li key={item}>{item}"
        " <button onClick={() => setItems(items.filter((other) => other !== item))}>Remove {item}</button></li>)}</ul></main>; }"
        f" {root}"
    )
    return _page("Shopping", f'<div id="root"></div><script {kind}>{code}</script>', files)


def _library_pages() -> dict[str, str]:
    react = [
        f"https://unpkg.com/{name}/umd/{name.partition('@')[0]}.development.js" for name in ("react@18", "react-dom@18")
    ]
    old = [
        f"https://unpkg.com/{name}/umd/{name.partition('@')[0]}.production.min.js"
        for name in ("react@17", "react-dom@17")
    ]
    babel = "https://unpkg.com/@babel/standalone@7/babel.min.js"
    mount = "ReactDOM.createRoot(document.getElementById('root')).render(<App />);"
    modules = 'import {useState} from "https://esm.sh/react@18.2.0"; import {createRoot} from "https://esm.sh/react-dom@18.2.0/client";'
    todo = (
        '<main><h1>{{ title }}</h1><p>Things that want doing.</p><input v-model="text" aria-label="New task"> <button'
        ' @click="add">Add</button><ul><li v-for="item in items">{{ item }}</li></ul></main>'
    )
    data = "data: () => ({title: 'Tasks', text: '', items: ['Rake leaves']}), methods: {add() { this.items.push(this.text || 'New task'); }}"
    card = (
        '<main class="mx-auto max-w-2xl p-8"><div class="rounded-xl bg-white p-6 shadow-lg"><h1 class="text-3xl font-bold'
        ' text-indigo-700">Plans</h1><p class="mt-2 text-gray-700">Choose what suits you best.</p><button id="b" class="mt-4'
        ' rounded bg-indigo-600 px-4 py-2 text-white hover:bg-indigo-800">Choose</button> <output id="n">0</output></div></main>'
        f"<script>{_COUNT}</script>"
    )
    fonts = "https://fonts.googleapis.com/css2?family=Inter:wght@400;700&family=Playfair+Display:ital,wght@0,700;1,400&display=swap"
    return {
        "react_18": _react(_src(*react, babel), 'type="text/babel"', "const {useState} = React;", mount),
        "react_17": _react(
            _src(*old, babel),
            'type="text/babel"',
            "const {useState} = React;",
            "ReactDOM.render(<App />, document.getElementById('root'));",
        ),
        "react_esm": _react(
            _src(babel),
            'type="text/babel" data-type="module"',
            modules + ' import React from "https://esm.sh/react@18.2.0";',
            "createRoot(document.getElementById('root')).render(<App />);",
        ),
        "vue_3": _page(
            "Tasks",
            f'<div id="app">{todo}</div><script>Vue.createApp({{{data}}}).mount("#app");</script>',
            _src("https://unpkg.com/vue@3/dist/vue.global.js"),
        ),
        "vue_2": _page(
            "Tasks",
            f'<div id="app">{todo}</div><script>new Vue({{el: "#app", {data}}});</script>',
            _src("https://cdn.jsdelivr.net/npm/vue@2.6.14/dist/vue.js"),
        ),
        "alpine": _page(
            "Alpine",
            f'<main x-data="{{open: false}}">{_text("Menus")}<button @click="open = !open">Toggle</button>'
            '<p x-show="open">The menu is open now.</p></main>',
            '<script defer src="https://cdn.jsdelivr.net/npm/alpinejs@3.x.x/dist/cdn.min.js"></script>',
        ),
        "tailwind_3": _page("Plans", card, _src("https://cdn.tailwindcss.com")),
        "tailwind_4": _page("Plans", card, _src("https://cdn.jsdelivr.net/npm/@tailwindcss/browser@4")),
        "chart": _page(
            "Rain",
            f"<main>{_text('Rain by month')}<canvas id='c' width='600' height='300'></canvas><button id='k'>More rain</button>"
            "</main><script>const chart = new Chart(document.getElementById('c'), {type: 'bar', data: {labels: ['May', 'June',"
            " 'July'], datasets: [{label: 'mm', data: [40, 55, 70]}]}}); document.getElementById('k').onclick = () => {"
            " chart.data.datasets[0].data[0] += 30; chart.update(); };</script>",
            _src("https://cdn.jsdelivr.net/npm/chart.js"),
        ),
        "d3": _page(
            "Bars",
            f"<main>{_text('Bars')}<svg width='600' height='240'></svg></main><script>d3.select('svg').selectAll('rect')"
            ".data([30, 80, 150, 90, 200]).join('rect').attr('x', (_, i) => i * 110).attr('y', (d) => 220 - d).attr('width', 90)"
            ".attr('height', (d) => d).attr('fill', '#36c').transition().duration(900).attr('fill', '#c63');</script>",
            _src("https://d3js.org/d3.v7.min.js"),
        ),
        "fonts_icons": _page(
            "Fonts",
            f'<main><h1><i class="fa-solid fa-leaf"></i> Garden</h1><p>Words set in Inter, a headline in Playfair.</p>{_COUNTER}'
            f"</main><script>{_COUNT}</script>",
            f'<link href="{fonts}" rel="stylesheet">'
            + _src("https://cdnjs.cloudflare.com/ajax/libs/font-awesome/6.4.0/css/all.min.css"),
            "body { font-family: Inter } h1 { font-family: 'Playfair Display' }",
        ),
        "bootstrap_integrity": _page(
            "Bootstrap",
            f'<main class="container">{_text("Buttons")}<button class="btn btn-primary" data-bs-toggle="collapse" data-bs-target='
            '"#more">More</button><div class="collapse" id="more">Here is more.</div></main>',
            '<link href="https://cdn.jsdelivr.net/npm/bootstrap@5.3.0/dist/css/bootstrap.min.css" rel="stylesheet" integrity='
            '"sha384-AAAA" crossorigin="anonymous"><script defer src="https://cdn.jsdelivr.net/npm/bootstrap@5.3.0/dist/js/'
            'bootstrap.bundle.min.js" integrity="sha384-AAAA" crossorigin="anonymous"></script>',
        ),
        "qr_marked_katex": _page(
            "Tools",
            f'<main>{_text("Tools")}<div id="q"></div><div id="m"></div><div id="k"></div></main><script>new QRCode("q", "hello");'
            'document.getElementById("m").innerHTML = marked.parse("# Notes\\n* one\\n* two"); katex.render("e^{i\\\\pi} + 1 = 0",'
            ' document.getElementById("k"));</script>',
            _src(
                "https://cdnjs.cloudflare.com/ajax/libs/qrcodejs/1.0.0/qrcode.min.js",
                "https://cdn.jsdelivr.net/npm/marked/marked.min.js",
                "https://cdn.jsdelivr.net/npm/katex@0.16.9/dist/katex.min.js",
                "https://cdn.jsdelivr.net/npm/katex@0.16.9/dist/katex.min.css",
            ),
        ),
        "three_global": _three(module=False),
        "three_module": _three(module=True),
    }


def _game() -> str:
    script = (
        "const c = document.querySelector('canvas').getContext('2d'); let x = 200, on = false, score = 0; onkeydown = (e) => {"
        " if (e.key === 'ArrowLeft') x -= 20; if (e.key === 'ArrowRight') x += 20; }; start.onclick = () => { on = true;"
        " start.hidden = true; }; function frame() { if (on) { c.fillStyle = '#123'; c.fillRect(0, 0, 400, 300); c.fillStyle = '#fd0';"
        " c.fillRect(x, 260, 50, 12); c.font = '16px sans-serif'; c.fillText('Score ' + score++, 10, 20); }"
        " requestAnimationFrame(frame); } frame();"
    )
    body = (
        '<canvas width="400" height="300" style="background: #123"></canvas><button id="start">Start the game</button>'
    )
    return _page("Catcher", f"<main>{_text('Catcher')}{body}</main><script>{script}</script>")


def _other_pages() -> dict[str, str]:
    shadow = (
        "customElements.define('task-board', class extends HTMLElement { connectedCallback() { this.attachShadow({mode:"
        " 'open'}).innerHTML = '<h1>Board</h1><p>Everything here is in a shadow tree.</p><p>Done: <b>0</b></p><p>One more line.</p>"
        "<button>Done</button>'; let n = 0; const root = this.shadowRoot; root.querySelector('button').onclick = () => {"
        " root.querySelector('b').textContent = ++n; }; } });"
    )
    router = (
        "const pages = {'': '<h1>Home</h1><p>Welcome to the home page.</p>', about: '<h1>About</h1><p>Two people and a dog.</p>'};"
        " const show = () => { view.innerHTML = pages[location.hash.slice(2)] || pages['']; }; onhashchange = show; show();"
    )
    history = (
        "const show = (name) => { view.innerHTML = '<h1>' + name + '</h1><p>All about ' + name + '.</p>'; };"
        " for (const a of document.querySelectorAll('a')) a.onclick = (e) => { e.preventDefault(); history.pushState({}, '',"
        " a.href); show(a.textContent); }; onpopstate = () => show('Home'); show('Home');"
    )
    paint = (
        "const k = document.querySelector('canvas'), c = k.getContext('2d'); let on = false; k.onpointerdown = (e) => { on = true;"
        " c.moveTo(e.offsetX, e.offsetY); }; k.onpointermove = (e) => { if (on) { c.lineTo(e.offsetX, e.offsetY); c.stroke(); } };"
        " onpointerup = () => { on = false; }; document.getElementById('w').onclick = () => { c.clearRect(0, 0, 600, 300);"
        " c.strokeText('empty', 9, 9); };"
    )
    permissions = (
        "navigator.serviceWorker?.register('sw.js').catch(() => {}); navigator.geolocation?.getCurrentPosition(() => {}, () => {"
        " place.textContent = 'Place unknown'; }); localStorage.visits = 1 + Number(localStorage.visits || 0); indexedDB.open('a');"
        " document.getElementById('s').onclick = () => { const a = document.createElement('a'); a.download = 'notes.txt';"
        " a.href = URL.createObjectURL(new Blob(['notes'])); a.click(); place.textContent = 'Saved'; };"
    )
    rows = "const body = document.querySelector('tbody'); let html = ''; for (let i = 0; i < N; i++) html += `<tr><td>${i}</td><td>Row"
    rows += " ${i}</td><td>${i * 7 % 100}</td></tr>`; body.innerHTML = html;"
    gradients = "".join(
        f".b{i} {{ position: absolute; width: 40vw; height: 40vw; left: {i * 7 % 90}%; top: {i * 13 % 90}%; border-radius: 50%;"
        f" background: radial-gradient(hsl({i * 20} 90% 60%), transparent 70%); filter: blur(40px); mix-blend-mode: screen;"
        f" animation: drift {9 + i}s infinite alternate; }}"
        for i in range(18)
    )
    return {
        "shadow": _page("Board", f"<task-board></task-board><script>{shadow}</script>"),
        "game": _game(),
        "chinese": _page(
            "园艺",
            f"<main><h1>园艺日记</h1><p>今天给番茄浇水，天气很好。🌱🍅</p>{_COUNTER}</main><script>{_COUNT}</script>",
            html='lang="zh"',
        ),
        "japanese": _page(
            "天気",
            f'<main><h1>今日の天気</h1><p>晴れのち曇り、最高気温は二十度です。</p><p style="writing-mode: vertical-rl">縦書きの文章</p>{_COUNTER}'
            f"</main><script>{_COUNT}</script>",
            html='lang="ja"',
        ),
        "arabic": _page(
            "حديقة",
            f"<main><h1>يوميات الحديقة</h1><p>سقيت الطماطم اليوم والطقس جميل.</p>{_COUNTER}</main><script>{_COUNT}</script>",
            html='lang="ar" dir="rtl"',
        ),
        "dark": _page(
            "Dark",
            f"<main>{_text('Dark scheme')}{_COUNTER}</main><script>{_COUNT}</script>",
            css="@media (prefers-color-scheme: dark) { body { background: #111; color: #eee } }",
        ),
        "hash_router": _page(
            "Routes",
            f'<main><nav><a href="#/">Home</a> <a href="#/about">About</a></nav><div id="view"></div></main><script>{router}</script>',
        ),
        "history_router": _page(
            "Routes",
            f'<main><nav><a href="/home">Home</a> <a href="/tea">Tea</a></nav><div id="view"></div></main><script>{history}</script>',
        ),
        "paint": _page(
            "Paint",
            f'<main>{_text("Paint")}<canvas width="600" height="300" style="background: #fff"></canvas><button id="w">Wipe</button>'
            f"</main><script>{paint}</script>",
        ),
        "permissions": _page(
            "Notes",
            f'<main>{_text("Notes")}<p id="place">Looking</p><button id="s">Save</button></main><script>{permissions}</script>',
        ),
        "media": _page(
            "Media",
            f'<main>{_text("Sounds")}<video controls width="320" height="180"></video><audio controls></audio>{_COUNTER}</main><script>{_COUNT}</script>',
        ),
        "huge": _page(
            "Rows",
            f"<main>{_text('Rows')}{_COUNTER}<table><tbody></tbody></table></main><script>{_COUNT} {rows.replace('N', '50000', 1)}</script>",
        ),
        "heavy_css": _page(
            "Aurora",
            f'<main style="position: relative">{_text("Aurora")}{_COUNTER}</main>'
            + "".join(f'<div class="b{i}"></div>' for i in range(18))
            + f"<script>{_COUNT}</script>",
            css=f"body {{ overflow: hidden }} main {{ z-index: 2 }} {gradients} @keyframes drift {{ to {{ transform: translate(30vw, 20vh) }} }}",
        ),
        "start_screen": _page(
            "Quiz",
            "<main><div id='intro'><h1>Quiz</h1><p>Five questions about trees.</p><button id='go'>Begin</button></div><div id='quiz'"
            " hidden><h2>Which tree has needles?</h2><button>Pine</button> <button>Oak</button><p id='say'></p></div></main><script>"
            "go.onclick = () => { intro.hidden = true; quiz.hidden = false; }; for (const b of quiz.querySelectorAll('button'))"
            " b.onclick = () => { say.textContent = b.textContent === 'Pine' ? 'Right' : 'No, try again'; };</script>",
        ),
    }


def odd_pages() -> Mapping[str, str]:
    """Name -> HTML of every honest page of an odd kind; names start with the kind: library, animated or other."""
    animated = {name: _drawing(name.capitalize(), code) for name, code in _DRAWINGS.items()}
    animated |= {"webgl": _webgl("Lights", 12), "webgl_heavy": _webgl("Many lights", 120)}
    kinds = {"library": _library_pages(), "animated": animated, "other": _other_pages()}
    return {f"{kind}_{name}": html for kind, pages in kinds.items() for name, html in pages.items()}
