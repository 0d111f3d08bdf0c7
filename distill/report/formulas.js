// Where in a text the formulas and the fenced code are. Every search is one forward pass, whatever a model wrote.

const OPENERS = [["$$", "$$", true], ["\\[", "\\]", true], ["\\(", "\\)", false]];
const OWN_DISPLAY = ["align", "align*", "equation", "equation*", "gather", "gather*", "cases", "pmatrix", "bmatrix", "array", "aligned"];

/* The text cut into strings, formulas {source, inner, display} and code {source, code}; joined again they are the text. */
function splitMath(text) {
  const closers = new Map(); // the next place of each closing mark, so that none is looked for twice
  const closing = (mark, from) => {
    const known = closers.get(mark);
    if (known === -1 || known >= from) return known;
    const found = text.indexOf(mark, from);
    closers.set(mark, found);
    return found;
  };
  const parts = [];
  const openings = /```|\$\$|\\\[|\\\(|\\boxed\{|\\begin\{([a-z]+\*?)\}|\\[\s\S]|\$/g;
  let from = 0;
  let formulas = 0;
  for (let match = openings.exec(text); match && formulas < MOST_FORMULAS; match = openings.exec(text)) {
    const found = match[0] === "```" ? codeAt(text, match.index, closing) : formulaAt(text, match, closing);
    if (found) {
      if (match.index > from) parts.push(text.slice(from, match.index));
      parts.push(found);
      formulas += 1;
      from = openings.lastIndex = match.index + found.source.length;
    }
  }
  if (from < text.length) parts.push(text.slice(from));
  return parts;
}

function codeAt(text, start, closing) {
  const end = closing("```", start + 3);
  return { source: text.slice(start, end < 0 ? text.length : end + 3), code: true };
}

function formulaAt(text, match, closing) {
  const start = match.index;
  const opener = OPENERS.find(([open]) => open === match[0]);
  if (opener) {
    const end = closing(opener[1], start + 2);
    return end > start + 2 ? formula(text, start, end + 2, 2, opener[2]) : null;
  }
  if (match[1] && OWN_DISPLAY.includes(match[1])) {
    const mark = `\\end{${match[1]}}`;
    const end = closing(mark, start);
    return end < 0 ? null : formula(text, start, end + mark.length, 0, true);
  }
  if (match[0] === "\\boxed{") return boxedAt(text, start);
  return match[0] === "$" ? dollarAt(text, start, closing) : null;
}

/* Pandoc's rule: no space inside the marks, no digit after the second one. Two prices are no formula. */
function dollarAt(text, start, closing) {
  let end = closing("$", start + 1);
  while (end > 0 && end - start <= LONGEST_FORMULA && text[end - 1] === "\\") end = text.indexOf("$", end + 1);
  if (end <= start + 1 || end - start > LONGEST_FORMULA) return null;
  if (/\s/.test(text[start + 1]) || /\s/.test(text[end - 1]) || /\d/.test(text[end + 1] || "")) return null;
  const found = formula(text, start, end + 1, 1, false);
  return found && /\n\s*\n/.test(found.inner) ? null : found;
}

function boxedAt(text, start) {
  let depth = 0;
  for (let at = start + 6; at < Math.min(text.length, start + 500); at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "{") depth += 1;
    else if (text[at] === "}" && !--depth) return formula(text, start, at + 1, 0, false);
  }
  return null;
}

function formula(text, start, end, marks, display) {
  if (end - start > LONGEST_FORMULA) return null;
  return { source: text.slice(start, end), inner: text.slice(start + marks, end - marks), display };
}

/* Fill a node with a text, its formulas typeset; those that cannot be read stay as they were written. */
function fillText(node, text, typesetting) {
  if (!typesetting) {
    node.textContent = text;
    return node;
  }
  for (const part of splitMath(text)) {
    const drawn = typeof part === "string" || part.code ? null : typeset(part.inner, part.display);
    if (part.code) {
      const block = document.createElement("span");
      block.className = "code";
      block.textContent = part.source;
      node.append(block);
    } else if (drawn) {
      const holder = document.createElement("span");
      holder.className = part.display ? "formula display" : "formula";
      holder.title = part.source;
      holder.append(drawn);
      node.append(holder);
    } else {
      node.append(typeof part === "string" ? part : part.source);
    }
  }
  return node;
}
