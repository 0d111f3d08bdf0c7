"use strict";
// Browsers for traces and for answers. Model text is data: it becomes `textContent` and never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const browsers = [];

function el(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function mark(verdict) {
  if (verdict === "correct") return el("span", "right", "\u2713");
  return verdict === "wrong" ? el("span", "wrong", "\u2717") : el("span", "quiet", "\u2013");
}

function modelText(parts) {
  const text = el("div", "text");
  text.append(el("span", "thought", parts[0]), el("span", "answer", parts[1]));
  return text;
}

function words(value) {
  return value.replaceAll("_", " ");
}

/* A list on the left, one row of it opened on the right, filters and a text search above.
   filters: [[name, [[label, row => shown], ...]], ...]; item(row) and open(row) give nodes; haystack(row) a string. */
function browse(root, rows, { filters, item, open, haystack }) {
  const search = el("input");
  search.type = "search";
  search.placeholder = "search the text";
  search.setAttribute("aria-label", "search the text");
  const selects = filters.map(([name, options]) => {
    const select = el("select");
    select.setAttribute("aria-label", name);
    options.forEach(([label], index) => {
      const option = el("option", "", label);
      option.value = String(index);
      select.append(option);
    });
    select.addEventListener("change", filter);
    return select;
  });
  const back = el("button", "", "\u2191");
  const next = el("button", "", "\u2193");
  back.setAttribute("aria-label", "previous");
  next.setAttribute("aria-label", "next");
  const place = el("span", "place");
  const controls = el("div", "controls");
  const list = el("div", "list");
  const reader = el("div", "reader");
  const panes = el("div", "panes");
  controls.append(...selects, search, el("kbd", "", "j / k to move, / to search"), place, back, next);
  panes.append(list, reader);
  root.replaceChildren(controls, panes);
  reader.tabIndex = 0;
  reader.setAttribute("role", "region");
  reader.setAttribute("aria-label", "the chosen text");

  let shown = [];
  let at = 0;
  let waiting = 0;
  const found = new Map();

  function textOf(row) {
    if (!found.has(row)) found.set(row, haystack(row).toLowerCase());
    return found.get(row);
  }

  function filter() {
    const wanted = search.value.trim().toLowerCase();
    const tests = selects.map((select, index) => filters[index][1][Number(select.value)][1]);
    shown = rows.filter((row) => tests.every((test) => test(row)) && (!wanted || textOf(row).includes(wanted)));
    list.replaceChildren(
      ...shown.map((row, index) => {
        const button = el("button");
        button.type = "button";
        button.append(...item(row));
        button.addEventListener("click", () => go(index));
        return button;
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
    list.children[at]?.removeAttribute("aria-current");
    at = Math.min(Math.max(index, 0), shown.length - 1);
    const button = list.children[at];
    button.setAttribute("aria-current", "true");
    const top = button.offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top;
    const bottom = top + button.offsetHeight - list.clientHeight;
    if (bottom > list.scrollTop) list.scrollTop = bottom;
    place.textContent = `${at + 1} of ${shown.length}`;
    reader.replaceChildren(...open(shown[at]));
    reader.scrollTop = 0;
  }

  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 120);
  });
  back.addEventListener("click", () => go(at - 1));
  next.addEventListener("click", () => go(at + 1));
  browsers.push({ root, search, move: (step) => go(at + step) });
  filter();
}

function problemHead(row) {
  const head = [el("div", "text problem", row.problem)];
  head.push(el("p", "meta", row.reference ? `${row.id} \u00b7 reference: ${row.reference}` : row.id));
  return head;
}

function distinct(rows, name) {
  return [...new Set(rows.map((row) => row[name]))].filter(Boolean).sort();
}

function browseTraces(root, rows) {
  const reasons = distinct(rows.filter((row) => !row.kept), "reason");
  browse(root, rows, {
    filters: [
      [
        "kept or rejected",
        [
          ["kept and rejected", () => true],
          ["kept", (row) => row.kept],
          ["rejected", (row) => !row.kept],
          ...reasons.map((reason) => [`rejected: ${words(reason)}`, (row) => !row.kept && row.reason === reason]),
        ],
      ],
      [
        "verdict",
        [
          ["any verdict", () => true],
          ...distinct(rows, "verdict").map((verdict) => [words(verdict), (row) => row.verdict === verdict]),
        ],
      ],
    ],
    haystack: (row) => [row.id, row.problem, row.reason, ...row.parts].join("\n"),
    item: (row) => [
      mark(row.verdict),
      el("span", "", row.problem),
      el("span", "why", row.kept ? "kept" : `rejected: ${words(row.reason)}`),
    ],
    open: (row) => {
      const measures = Object.entries(row.measures).map(([name, value]) => `${words(name)} ${value}`);
      const facts = [
        row.kept ? "kept" : `rejected: ${words(row.reason)}`,
        words(row.verdict),
        row.extracted && `extracted: ${row.extracted}`,
        `${row.tokens} tokens`,
        row.finish && `finish reason: ${row.finish}`,
        ...measures,
      ];
      return [...problemHead(row), el("p", "meta", facts.filter(Boolean).join(" \u00b7 ")), modelText(row.parts)];
    },
  });
}

function answerColumn(model, answers) {
  const column = el("div", `column role-${model.role}`);
  const samples = el("div", "samples");
  const body = el("div");
  const choose = (index) => {
    const answer = answers[index];
    const facts = [words(answer.verdict), answer.extracted && `extracted: ${answer.extracted}`, `${answer.tokens} tokens`];
    if (answer.verdict !== "correct") facts.push(answer.reason);
    [...samples.children].forEach((button, place) => button.setAttribute("aria-pressed", String(place === index)));
    body.replaceChildren(el("p", "meta", facts.filter(Boolean).join(" \u00b7 ")), modelText(answer.parts));
  };
  answers.forEach((answer, index) => {
    const button = el("button");
    button.type = "button";
    button.setAttribute("aria-label", `answer ${index + 1}, ${words(answer.verdict)}`);
    button.append(mark(answer.verdict));
    button.addEventListener("click", () => choose(index));
    samples.append(button);
  });
  column.append(el("h4", "", model.name), samples, body);
  if (answers.length) choose(0);
  return column;
}

function browseAnswers(root, problems) {
  const right = (row, model) => (row.answers[model] || []).filter((answer) => answer.verdict === "correct").length;
  const models = data.models.filter((model) => problems.some((row) => row.answers[model.name]));
  const shares = (row) => models.map((model) => `${right(row, model.name)}/${(row.answers[model.name] || []).length}`);
  browse(root, problems, {
    filters: [
      [
        "which problems",
        [
          ["all problems", () => true],
          ["models differ", (row) => new Set(shares(row)).size > 1],
          ...models.map((model) => [`${model.name} errs`, (row) => right(row, model.name) < (row.answers[model.name] || []).length]),
        ],
      ],
    ],
    haystack: (row) => [row.id, row.problem, ...Object.values(row.answers).flat().flatMap((answer) => answer.parts)].join("\n"),
    item: (row) => [el("span"), el("span", "", row.problem), el("span", "why", `right: ${shares(row).join(", ")}`)],
    open: (row) => {
      const columns = el("div", "columns");
      columns.append(...models.map((model) => answerColumn(model, row.answers[model.name] || [])));
      return [...problemHead(row), columns];
    },
  });
}

for (const root of document.querySelectorAll(".browser")) {
  const { kind, name } = root.dataset;
  (kind === "traces" ? browseTraces : browseAnswers)(root, data[kind][name]);
}

// Keys go to the browser nearest to the middle of the window.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !browsers.length) return;
  if (event.target.closest("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const away = ({ root }) => {
    const { top, bottom } = root.getBoundingClientRect();
    return Math.abs((top + bottom) / 2 - innerHeight / 2);
  };
  const browser = browsers.reduce((best, other) => (away(other) < away(best) ? other : best));
  if (event.key === "j") browser.move(1);
  else if (event.key === "k") browser.move(-1);
  else if (event.key === "/") {
    event.preventDefault();
    browser.search.focus();
  }
});
