// What the browsers of this page show, and the switch between light and dark.

const data = JSON.parse(document.getElementById("data").textContent);
const LIST_CHARACTERS = 200; // of a problem, in the list
const LONG_THOUGHT = 2000; // characters

function mark(verdict) {
  if (verdict === "correct") return el("span", "right", "✓");
  return verdict === "wrong" ? el("span", "wrong", "✗") : el("span", "quiet", "–");
}

/* A long thought is folded where an answer follows it, so that answers are compared first. */
function modelText([thought, answer]) {
  const text = el("div", typesetting ? "text" : "text raw");
  const thinking = el("span", "thought");
  if (thought.length > LONG_THOUGHT && answer.trim()) {
    const fold = el("details");
    fold.append(el("summary", "", `thought, ${thought.length.toLocaleString("en")} characters`), thinking);
    fold.addEventListener("toggle", () => thinking.hasChildNodes() || fillText(thinking, thought, typesetting));
    text.append(fold);
  } else text.append(fillText(thinking, thought, typesetting));
  text.append(fillText(el("span", "answer"), answer, typesetting));
  return text;
}

function words(value) {
  return value.replaceAll("_", " ");
}

function problemHead(row) {
  const head = [fillText(el("div", "text problem"), row.problem, typesetting)];
  head.push(el("p", "meta", row.reference ? `${row.id} · reference: ${row.reference}` : row.id));
  return head;
}

function titleOf(row) {
  return fillText(el("span"), row.problem.slice(0, LIST_CHARACTERS), typesetting);
}

function distinct(rows, name) {
  return [...new Set(rows.map((row) => row[name]))].filter(Boolean).sort();
}

function browseTraces(root, rows) {
  const reasons = distinct(rows.filter((row) => !row.kept), "reason");
  const kept = [
    ["kept and rejected", () => true],
    ["kept", (row) => row.kept],
    ["rejected", (row) => !row.kept],
    ...reasons.map((reason) => [`rejected: ${words(reason)}`, (row) => !row.kept && row.reason === reason]),
  ];
  const verdicts = [
    ["any verdict", () => true],
    ...distinct(rows, "verdict").map((verdict) => [words(verdict), (row) => row.verdict === verdict]),
  ];
  browse(root, rows, {
    filters: [
      ["kept or rejected", () => kept],
      ["verdict", () => verdicts],
    ],
    haystack: (row) => [row.id, row.problem, row.reason, ...row.parts].join("\n"),
    item: (row) => [
      mark(row.verdict),
      titleOf(row),
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
      return [...problemHead(row), el("p", "meta", facts.filter(Boolean).join(" · ")), modelText(row.parts)];
    },
  });
}

/* One model's answers to a problem; `place` is that of the answer shown, for all columns at once or by its own buttons. */
function answerColumn(model, answers, place) {
  const column = el("div", `column role-${model.role}`);
  const samples = el("div", "samples");
  const body = el("div");
  const choose = (index) => {
    const answer = answers[index];
    const facts = [words(answer.verdict), answer.extracted && `extracted: ${answer.extracted}`, `${answer.tokens} tokens`];
    if (answer.verdict !== "correct") facts.push(answer.reason);
    [...samples.children].forEach((node, other) => node.setAttribute("aria-pressed", String(other === index)));
    body.replaceChildren(el("p", "meta", facts.filter(Boolean).join(" · ")), modelText(answer.parts));
  };
  answers.forEach((answer, index) => {
    const node = button("", `answer ${index + 1}, ${words(answer.verdict)}`, () => choose(index));
    node.append(mark(answer.verdict));
    samples.append(node);
  });
  column.append(el("h4", "", model.name), samples, body);
  if (answers.length) choose(Math.min(place, answers.length - 1));
  else body.append(el("p", "quiet", "No answer of this model is here."));
  return column;
}

/* Two models side by side, the teacher and a student where there are such. */
function browseAnswers(root, suites) {
  const rows = Object.entries(suites).flatMap(([suite, problems]) => problems.map((row) => ({ ...row, suite })));
  const models = data.models.filter((model) => rows.some((row) => row.answers[model.name]));
  const first = Math.max(0, models.findIndex(({ role }) => role === "teacher"));
  const student = models.findIndex(({ role }, index) => role === "student" && index !== first);
  const chosen = [first, student >= 0 ? student : first === 0 ? models.length - 1 : 0];
  let place = 0;
  const pair = () => [...new Set(chosen)].map((index) => models[index]);
  const answersOf = (row, model) => row.answers[model.name] || [];
  const right = (row, model) => {
    const [correct, all] = row.counts[model.name] || [0, 0];
    return all ? correct > all / 2 : null;
  };
  const marks = (row) => {
    const both = el("span");
    both.append(...pair().map((model) => mark({ true: "correct", false: "wrong" }[right(row, model)])));
    return both;
  };
  const share = (row, model) => (row.counts[model.name] || ["–"]).join("/");
  const verdicts = [...new Set(rows.flatMap((row) => Object.values(row.answers).flat().map(({ verdict }) => verdict)))].sort();

  const whoWasRight = () => {
    const [a, b] = [models[chosen[0]], models[chosen[1]]];
    const both = (one, other) => (row) => right(row, a) === one && right(row, b) === other;
    return [
      ["whoever was right", () => true],
      [`${a.name} right, ${b.name} wrong`, both(true, false)],
      [`${a.name} wrong, ${b.name} right`, both(false, true)],
      ["both right", both(true, true)],
      ["both wrong", both(false, false)],
    ];
  };
  const sides = ["left", "right"].map((side, index) => {
    const select = chooser(`model on the ${side}`, () => {
      chosen[index] = select.selectedIndex;
      refresh();
    });
    offer(select, models.map(({ name }) => name));
    select.selectedIndex = chosen[index];
    return select;
  });
  const everySuite = [["all suites", () => true], ...Object.keys(suites).map((name) => [name, (row) => row.suite === name])];
  const refresh = browse(root, rows, {
    extra: models.length > 1 ? sides : [],
    filters: [
      ["suite", () => everySuite],
      ["who was right", whoWasRight],
      [
        "verdict",
        () => [
          ["any verdict", () => true],
          ...verdicts.map((verdict) => [
            `an answer ${words(verdict)}`,
            (row) => pair().some((model) => answersOf(row, model).some((answer) => answer.verdict === verdict)),
          ]),
        ],
      ],
    ],
    haystack: (row) => [row.id, row.problem, ...Object.values(row.answers).flat().flatMap(({ parts }) => parts)].join("\n"),
    item: (row) => [
      marks(row),
      titleOf(row),
      el("span", "why", pair().map((model) => `${model.name} ${share(row, model)}`).join(", ")),
    ],
    open: (row) => {
      const columns = el("div", "columns");
      columns.append(...pair().map((model) => answerColumn(model, answersOf(row, model), place)));
      return [...problemHead(row), columns];
    },
    turn: (step) => {
      const most = Math.max(1, ...rows.flatMap((row) => pair().map((model) => answersOf(row, model).length)));
      place = (place + step + most) % most;
      browsers.find((browser) => browser.root === root).draw();
    },
  });
}

for (const root of document.querySelectorAll(".browser")) {
  const { kind, name } = root.dataset;
  const turning = kind === "traces" ? "" : "← and → turn to the other answers, ";
  root.before(el("p", "note keys", `Keys: j and k move, / searches, ${turning}f shows texts as they were written.`));
  if (kind === "traces") browseTraces(root, data.traces[name]);
  else browseAnswers(root, data.answers);
}

// Light or dark as the system is, until the reader says otherwise; kept nowhere.
const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = button("", "", () => {
  const now = document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  nameTheme();
});
function nameTheme() {
  const now = document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
  theme.textContent = now === "dark" ? "Light" : "Dark";
}
theme.className = "theme";
dark.addEventListener("change", nameTheme);
nameTheme();
document.querySelector("header").prepend(theme);
