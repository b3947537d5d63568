"""Honest and dishonest pages for the tests of syntax, function and the whole reward."""

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Example</title>
<style>
  body { font-family: sans-serif; margin: 2rem; color: #222; background: #fff; }
  button { padding: 0.5rem 1rem; }
</style>
</head>
<body>
"""


def document(body: str) -> str:
    return f"{HEAD}{body}\n</body>\n</html>"


COUNTER_BODY = """<main>
<h1>Counter</h1>
<p>The count is <output id="count">0</output></p>
<button id="reset">Reset</button> <button id="down">Down</button> <button id="up">Up</button>
</main>
"""
COUNTER = document(
    COUNTER_BODY
    + """<script>
  const output = document.getElementById("count");
  let count = 0;
  const show = (value) => { count = value; output.textContent = value; };
  document.getElementById("reset").addEventListener("click", () => show(0));
  document.getElementById("down").addEventListener("click", () => show(count - 1));
  document.getElementById("up").onclick = () => show(count + 1);
</script>"""
)
DEAD_COUNTER = document(COUNTER_BODY)
FORM = document(
    """<main>
<h1>Contact</h1>
<form>
<p><label>Name <input name="name" required></label></p>
<p><label>Mail <input type="email" name="mail" required></label></p>
<p><label>Topic <select name="topic"><option>Sales</option><option>Support</option></select></label></p>
<p><label><input type="checkbox" name="news"> Send me news</label></p>
<button>Send</button>
</form>
</main>"""
)
TODO = document(
    """<main>
<h1>Things to do</h1>
<form id="form"><label>New <input id="new"></label> <button>Add</button></form>
<ul id="list"></ul>
<button id="clear" type="button">Clear</button>
</main>
<script>
  const list = document.getElementById("list");
  const field = document.getElementById("new");
  document.getElementById("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!field.value) return;
    const item = document.createElement("li");
    item.textContent = field.value;
    list.append(item);
    field.value = "";
  });
  document.getElementById("clear").addEventListener("click", () => list.replaceChildren());
</script>"""
)
ARTICLE = document(
    """<main>
<h1>Tea</h1>
<p>Tea is a drink made by pouring hot water over leaves.</p>
<h2>Kinds</h2>
<ul><li>Green tea</li><li>Black tea</li><li>White tea</li></ul>
</main>"""
)
HONEST = {"counter": COUNTER, "form": FORM, "todo": TODO, "article": ARTICLE}

CHURN_SCRIPT = """<script>
  setInterval(() => {
    document.querySelector("h1").style.color = `hsl(${Math.random() * 360} 60% 30%)`;
    for (const part of document.querySelectorAll(".churn")) part.textContent = Math.random();
    document.body.append(document.createElement("i"));
  }, 37);
</script>"""
ATTACKS = {
    "blank": document(""),
    "gradient": document('<div style="height: 90vh; background: linear-gradient(red, blue)"></div>'),
    "giant text": document('<div style="font-size: 300px">WOW</div>'),
    "hidden text": document(
        "".join(
            f'<p style="{how}">Useful sentence {index}</p>'
            for index, how in enumerate(
                [
                    "display: none",
                    "visibility: hidden",
                    "opacity: 0",
                    "color: #fff",
                    "font-size: 1px",
                    "color: transparent",
                ]
            )
        )
    ),
    "off-screen text": document(
        "".join(f'<p style="position: absolute; left: -9999px">Useful sentence {index}</p>' for index in range(8))
    ),
    "covered text": document(
        "".join(f"<p>Useful sentence {index}</p>" for index in range(8))
        + '<div style="position: fixed; inset: 0; background: #eee"></div>'
    ),
    "infinite loop": document("<h1>Loading</h1><script>while (true) {}</script>"),
    "busy sleep": document("<h1>Wait</h1><script>const end = Date.now() + 3000; while (Date.now() < end) {}</script>"),
    "sleep": document(
        "<script>setTimeout(() => { document.body.innerHTML = '<h1>A</h1><p>B</p><p>C</p><p>D</p>'; }, 30000);</script>"
    ),
    "network fetch": document(
        COUNTER_BODY + "<script>fetch('https://example.com/page').then((got) => got.text())"
        ".then((text) => { document.body.innerHTML = text; });</script>"
    ),
    "churn with dead buttons": document(COUNTER_BODY + CHURN_SCRIPT),
    "churn alone": document("<h1>0</h1>" + '<p class="churn">0</p>' * 12 + CHURN_SCRIPT),
    "any click does it": document(
        COUNTER_BODY + "<script>document.addEventListener('click', () => {"
        " document.body.append(String(Math.random())); });</script>"
    ),
    "invisible reaction": document(
        COUNTER_BODY + "<script>for (const one of document.querySelectorAll('button'))"
        " one.onclick = () => { one.dataset.random = Math.random(); };</script>"
    ),
}
