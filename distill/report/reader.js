// A browser of rows: filters and a search above, a list on the left, the chosen row opened on the right.
// Model text is data: it becomes `textContent`, or MathML made node by node, and never markup.

const browsers = [];
let typesetting = true; // formulas as formulas, or as they were written

function el(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function button(text, label, act) {
  const node = el("button", "", text);
  node.type = "button";
  if (label) node.setAttribute("aria-label", label);
  node.addEventListener("click", act);
  return node;
}

function chooser(name, act) {
  const node = el("select");
  node.setAttribute("aria-label", name);
  node.addEventListener("change", act);
  return node;
}

/* Give a select these labels; what was chosen stays chosen by its place. */
function offer(select, labels) {
  const chosen = Math.max(0, select.selectedIndex);
  select.replaceChildren(
    ...labels.map((label, index) => {
      const option = el("option", "", label);
      option.value = String(index);
      return option;
    }),
  );
  select.selectedIndex = Math.min(chosen, labels.length - 1);
}

/* filters: [[name, () => [[label, row => shown], ...]], ...]; item(row) and open(row) give nodes, haystack(row) a string,
   turn(step) moves within an open row. Returns `refresh`, for when what the filters offer has changed. */
function browse(root, rows, { filters, extra = [], item, open, haystack, turn = () => {} }) {
  const search = el("input");
  search.type = "search";
  search.placeholder = "search the text";
  search.setAttribute("aria-label", "search the text");
  const selects = filters.map(([name]) => chooser(name, filter));
  const place = el("span", "place");
  place.setAttribute("aria-live", "polite");
  const controls = el("div", "controls");
  const list = el("div", "list");
  const reader = el("div", "reader");
  const panes = el("div", "panes");
  controls.append(...extra, ...selects, search, place);
  controls.append(button("↑", "previous", () => go(at - 1)), button("↓", "next", () => go(at + 1)));
  panes.append(list, reader);
  root.replaceChildren(controls, panes);
  list.setAttribute("role", "group");
  list.setAttribute("aria-label", "rows");
  reader.tabIndex = 0;
  reader.setAttribute("role", "region");
  reader.setAttribute("aria-label", "the chosen row");

  let shown = [];
  let at = 0;
  let waiting = 0;
  const found = new Map();

  function textOf(row) {
    if (!found.has(row)) found.set(row, haystack(row).toLowerCase());
    return found.get(row);
  }

  function refresh() {
    selects.forEach((select, index) => offer(select, filters[index][1]().map(([label]) => label)));
    filter();
  }

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    const tests = selects.map((select, index) => filters[index][1]()[select.selectedIndex][1]);
    shown = rows.filter((row) => tests.every((test) => test(row)) && (!wanted || textOf(row).includes(wanted)));
    list.replaceChildren(
      ...shown.map((row, index) => {
        const entry = button("", "", () => go(index));
        entry.tabIndex = -1; // one stop for the Tab key; the arrows move within
        entry.append(...item(row));
        return entry;
      }),
    );
    list.scrollTop = 0;
    go(0);
  }

  function go(index) {
    if (!shown.length) {
      place.textContent = "none";
      reader.replaceChildren(el("p", "quiet", "Nothing fits these filters."));
      return;
    }
    const before = list.children[at];
    const focused = before && document.activeElement === before;
    before?.removeAttribute("aria-current");
    if (before) before.tabIndex = -1;
    at = Math.min(Math.max(index, 0), shown.length - 1);
    const entry = list.children[at];
    entry.setAttribute("aria-current", "true");
    entry.tabIndex = 0;
    if (focused) entry.focus({ preventScroll: true });
    const top = entry.offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top;
    const bottom = top + entry.offsetHeight - list.clientHeight;
    if (bottom > list.scrollTop) list.scrollTop = bottom;
    place.textContent = `${at + 1} of ${shown.length}`;
    draw();
  }

  function draw() {
    if (shown.length) reader.replaceChildren(...open(shown[at]));
    reader.scrollTop = 0;
  }

  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    clearTimeout(waiting);
    filter();
    (list.children[at] || search).focus();
    event.preventDefault();
  });
  list.addEventListener("keydown", (event) => {
    const target = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: shown.length - 1 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    go(target);
    list.children[at]?.focus({ preventScroll: true });
  });
  browsers.push({ root, search, turn, draw, move: (step) => go(at + step) });
  refresh();
  return refresh;
}

/* Keys that act wherever the focus is, on the browser nearest to the middle of the window. */
function nearest() {
  const away = ({ root }) => {
    const { top, bottom } = root.getBoundingClientRect();
    return Math.abs((top + bottom) / 2 - innerHeight / 2);
  };
  const browser = browsers.reduce((best, other) => (away(other) < away(best) ? other : best));
  const { top, bottom } = browser.root.getBoundingClientRect();
  if (bottom < 0 || top > innerHeight) browser.root.scrollIntoView();
  return browser;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !browsers.length) return;
  if (event.target.closest("input") || (event.target.closest("select") && event.key !== "/")) return;
  const within = event.target.closest(".browser");
  if (event.key === "j") nearest().move(1);
  else if (event.key === "k") nearest().move(-1);
  else if (event.key === "ArrowRight" && within) nearest().turn(1);
  else if (event.key === "ArrowLeft" && within) nearest().turn(-1);
  else if (event.key === "f") {
    typesetting = !typesetting;
    browsers.forEach(({ draw }) => draw());
  } else if (event.key === "/") nearest().search.focus();
  else return;
  event.preventDefault();
});
