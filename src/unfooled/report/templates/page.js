// The page works without this: it adds buttons that copy commands and sort tables, filters, and a slider.
for (const button of document.querySelectorAll("button[data-copy]")) {
  const code = document.getElementById(button.dataset.copy);
  const select = () => getSelection().selectAllChildren(code);
  const say = (text) => {
    button.textContent = text;
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    if (!navigator.clipboard) { select(); say("Selected"); return; }
    navigator.clipboard.writeText(code.textContent).then(() => say("Copied"), () => { select(); say("Selected"); });
  });
}

// A cell's number: its first one, a fraction divided out, thousands without commas; undefined: it has none.
const NUMBER = /[-\u2212]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?/i;
const numberOf = (text) => {
  const found = text.match(NUMBER);
  if (!found) return undefined;
  const value = Number(found[0].replaceAll(",", "").replace("\u2212", "-"));
  const under = text.slice(found.index + found[0].length).match(/^\/(\d+)/);
  return under ? value / Number(under[1]) : value;
};
// Cells without a number come last, in either direction.
const compared = (a, b, down) => {
  if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
  return down ? b - a : a - b;
};

for (const table of document.querySelectorAll("table.figures:not(.plain)")) {
  const body = table.tBodies[0];
  const heads = [...(table.tHead ? table.tHead.rows[table.tHead.rows.length - 1].cells : [])];
  if (!body || table.tBodies.length > 1 || body.rows.length < 3) continue;
  if (table.querySelector("tbody [colspan], tbody [rowspan], thead [colspan], thead [rowspan]")) continue;
  heads.forEach((head, column) => {
    if (!head.textContent.trim() || head.classList.contains("fixed")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const rows = [...body.rows].map((row) => [row, row.cells[column]?.textContent.trim() ?? ""]);
      const numeric = head.classList.contains("num") || rows.some(([, text]) => /^[-\u2212\d]/.test(text));
      rows.sort(([, a], [, b]) => numeric ? compared(numberOf(a), numberOf(b), down)
        : (down ? b.localeCompare(a) : a.localeCompare(b)));
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows.map(([row]) => row));
    });
  });
}

for (const search of document.querySelectorAll("input[data-filter]")) {
  search.parentElement.hidden = false;
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of document.querySelectorAll(`${search.dataset.filter} > tbody > tr`)) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}

for (const tools of document.querySelectorAll("form.tools")) {
  const part = tools.closest(".part");
  const list = part.querySelector("ol.examples");
  const folded = part.querySelector("details.rest");
  const examples = [...part.querySelectorAll("li.example")];
  const told = tools.querySelector("output");
  const options = (name, values) => {
    const select = tools.elements[name];
    for (const value of [...new Set(values)].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }))) {
      select.append(new Option(value, value));
    }
  };
  const confusion = (e) => `${e.dataset.from} \u2192 ${e.dataset.to}`;
  options("label", examples.map((e) => e.dataset.label));
  options("confusion", examples.filter((e) => e.dataset.from !== e.dataset.to).map(confusion));
  options("state", examples.map((e) => e.dataset.state));
  examples.forEach((e, place) => { e.dataset.place = place; });
  tools.hidden = false;
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("input", () => {
    const { label, confusion: pair, state, order } = tools.elements;
    if (folded) { list.append(...folded.querySelectorAll("li.example")); folded.hidden = true; }
    const [key, down] = [order.value.replace("-", ""), order.value.startsWith("-")];
    const number = (e) => (e.dataset[key] === "" ? undefined : Number(e.dataset[key]));
    list.append(...[...examples].sort((a, b) => compared(number(a), number(b), down)));
    let shown = 0;
    for (const e of examples) {
      e.hidden = !((!label.value || e.dataset.label === label.value) && (!state.value || e.dataset.state === state.value)
        && (!pair.value || confusion(e) === pair.value));
      shown += !e.hidden;
    }
    told.textContent = shown === examples.length ? "" : `${shown} of ${examples.length} shown`;
  });
}

// At each radius a sample is shown as it is up to there: its nearest adversarial example, or itself if that is farther.
for (const form of document.querySelectorAll("form.radius")) {
  const part = form.closest(".outward");
  const slider = form.querySelector("input");
  const told = form.querySelector("output");
  const examples = [...part.querySelectorAll("ol.near > li")];
  const numbers = slider.dataset.curve.split(" ").filter(Boolean).map(Number);
  const whole = slider.dataset.whole === "1";
  const unit = Number(slider.dataset.unit);
  const show = () => {
    const share = Number(slider.value) / Number(slider.max);
    const radius = whole ? Math.floor(share * slider.dataset.last) : share * slider.dataset.last;
    let accuracy = 1;
    for (let k = 0; k < numbers.length && numbers[k] <= radius; k += 2) accuracy = numbers[k + 1];
    for (const e of examples) e.classList.toggle("fallen", Number(e.dataset.distance) <= radius);
    const fallen = examples.filter((e) => e.classList.contains("fallen")).length;
    const text = `${Number((unit * radius).toPrecision(3))}${unit === 1 ? "" : `/${unit}`}`;
    told.textContent = `${text}: ${fallen} of the ${examples.length} are fooled`
      + (numbers.length ? `; of all that were searched, at most ${(100 * accuracy).toFixed(1)} % still hold` : "");
    slider.setAttribute("aria-valuetext", told.textContent);
  };
  form.hidden = false;
  part.classList.add("live");
  form.addEventListener("submit", (event) => event.preventDefault());
  slider.addEventListener("input", show);
  show();
}
