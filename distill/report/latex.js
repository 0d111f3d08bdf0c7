"use strict";
// LaTeX formulas in a text, as MathML. Nodes are made one by one and filled by `textContent`: no markup is ever parsed,
// and no attribute but `title` gets a model's words. What is not understood is shown as its source, never dropped.

const MATHML = "http://www.w3.org/1998/Math/MathML";
const LONGEST_FORMULA = 4000; // characters
const MOST_FORMULAS = 2000; // of one text; those after them stay source
const DEEPEST = 60; // groups within groups

/* A look-up table without what every object inherits: a model may well write \\constructor. */
function lookup(entries) {
  return Object.assign(Object.create(null), entries);
}

function pairs(text) {
  return lookup(Object.fromEntries(text.trim().split(/\s+/).map((pair) => pair.split("="))));
}

const LETTERS = pairs(`alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι kappa=κ
  lambda=λ mu=μ nu=ν xi=ξ pi=π varpi=ϖ rho=ρ varrho=ϱ sigma=σ varsigma=ς tau=τ upsilon=υ phi=ϕ varphi=φ chi=χ psi=ψ omega=ω
  Gamma=Γ Delta=Δ Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Upsilon=Υ Phi=Φ Psi=Ψ Omega=Ω infty=∞ ell=ℓ hbar=ℏ imath=ı jmath=ȷ
  Re=ℜ Im=ℑ aleph=ℵ emptyset=∅ varnothing=∅ partial=∂ nabla=∇ angle=∠ triangle=△ degree=° circ=∘ square=□ Box=□ blacksquare=■
  prime=′ dots=… ldots=… dotsc=… dotso=… dotsb=⋯ dotsm=⋯ dotsi=⋯ cdots=⋯ vdots=⋮ ddots=⋱ checkmark=✓ top=⊤ bot=⊥ pounds=£ S=§ measuredangle=∡ diamond=⋄ star=⋆`);
const OPERATORS = pairs(`times=× cdot=⋅ div=÷ pm=± mp=∓ ast=∗ le=≤ leq=≤ leqslant=⩽ ge=≥ geq=≥ geqslant=⩾ ne=≠ neq=≠ equiv=≡ approx=≈
  sim=∼ simeq=≃ cong=≅ propto=∝ ll=≪ gg=≫ lt=< gt=> in=∈ notin=∉ ni=∋ subset=⊂ subseteq=⊆ subsetneq=⊊ supset=⊃ supseteq=⊇ cup=∪
  cap=∩ setminus=∖ backslash=∖ wedge=∧ land=∧ vee=∨ lor=∨ neg=¬ lnot=¬ forall=∀ exists=∃ nexists=∄ to=→ rightarrow=→ leftarrow=←
  gets=← leftrightarrow=↔ Rightarrow=⇒ Leftarrow=⇐ Leftrightarrow=⇔ iff=⟺ implies=⟹ impliedby=⟸ Longrightarrow=⟹ longrightarrow=⟶
  longleftarrow=⟵ Longleftrightarrow=⟺ mapsto=↦ longmapsto=⟼ uparrow=↑ downarrow=↓ hookrightarrow=↪ rightharpoonup=⇀ mid=∣ nmid=∤
  parallel=∥ nparallel=∦ perp=⊥ oplus=⊕ ominus=⊖ otimes=⊗ odot=⊙ bullet=∙ because=∵ therefore=∴ colon=: vdash=⊢ models=⊨
  prec=≺ succ=≻ preceq=⪯ succeq=⪰ doteq=≐ triangleq=≜ asymp=≍ trianglelefteq=⊴ searrow=↘ nearrow=↗ lesssim=≲ gtrsim=≳`);
const LARGE = pairs(`sum=∑ prod=∏ coprod=∐ int=∫ iint=∬ iiint=∭ oint=∮ bigcup=⋃ bigcap=⋂ bigoplus=⨁ bigotimes=⨂ bigvee=⋁ bigwedge=⋀`);
const DELIMITERS = pairs(`langle=⟨ rangle=⟩ lfloor=⌊ rfloor=⌋ lceil=⌈ rceil=⌉ lvert=| rvert=| vert=| lVert=‖ rVert=‖ Vert=‖ lbrace={
  rbrace=} lbrack=[ rbrack=] {={ }=} |=‖ lparen=( rparen=)`);
const ACCENTS = pairs(`hat=^ widehat=^ bar=‾ overline=‾ vec=→ overrightarrow=→ overleftarrow=← tilde=~ widetilde=~ dot=˙ ddot=¨
  overbrace=⏞ check=ˇ breve=˘ overarc=⌒ wideparen=⌒`);
const BELOW = pairs("underline=_ underbrace=⏟");
const FUNCTIONS = new Set(
  `sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan log ln lg exp lim limsup liminf max min sup inf arg det dim
  gcd lcm ker deg hom Pr`.split(/\s+/),
);
const UNDER = new Set("lim limsup liminf max min sup inf gcd det Pr".split(" "));
const SPACES = lookup({ ",": "0.17em", ":": "0.22em", ";": "0.28em", "!": "0em", quad: "1em", qquad: "2em", thinspace: "0.17em" });
const TEXTS = new Set("text emph textrm textbf textit textsf texttt textnormal mbox hbox".split(" "));
const FONTS = lookup({ mathrm: "normal", operatorname: "normal", mathsf: "normal", rm: "normal", mathit: "", boldsymbol: "bold", bold: "bold", mathbf: "bold",
  bm: "bold", mathbb: "double", mathcal: "script", mathscr: "script", mathfrak: "fraktur" });
const IGNORED = new Set(`displaystyle textstyle scriptstyle limits nolimits big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl
  Biggr bigm nonumber notag hline noindent centering`.split(/\s+/));
const FENCES = lookup({ pmatrix: "()", bmatrix: "[]", Bmatrix: "{}", vmatrix: "||", Vmatrix: "‖‖", cases: "{ ", rcases: " }" });
const TABLES = new Set([...Object.keys(FENCES), "matrix", "smallmatrix", "array", "aligned", "align", "align*", "alignat", "alignat*", "gathered",
  "gather", "gather*", "split", "equation", "equation*", "eqnarray", "eqnarray*", "multline", "multline*"]);
const ALPHABETS = { bold: [0x1d400, 0x1d41a, 0x1d7ce], double: [0x1d538, 0x1d552, 0x1d7d8], script: [0x1d49c, 0x1d4b6, 0], fraktur: [0x1d504, 0x1d51e, 0] };
const EXCEPTIONS = { double: pairs("C=ℂ H=ℍ N=ℕ P=ℙ Q=ℚ R=ℝ Z=ℤ"), script: pairs("B=ℬ E=ℰ F=ℱ H=ℋ I=ℐ L=ℒ M=ℳ R=ℛ e=ℯ g=ℊ o=ℴ"),
  fraktur: pairs("C=ℭ H=ℌ I=ℑ R=ℜ Z=ℨ") };

function math(tag, ...children) {
  const node = document.createElementNS(MATHML, tag);
  node.append(...children);
  return node;
}

function withClass(node, name) {
  node.setAttribute("class", name);
  return node;
}

function operator(text, stretchy = false) {
  const node = math("mo", text);
  node.setAttribute("stretchy", String(stretchy));
  return node;
}

function row(nodes) {
  return nodes.length === 1 ? nodes[0] : math("mrow", ...nodes);
}

function styled(text, font) {
  const starts = ALPHABETS[font];
  if (!starts) return text;
  return [...text].map((letter) => {
    if (EXCEPTIONS[font]?.[letter]) return EXCEPTIONS[font][letter];
    const kind = /[A-Z]/.test(letter) ? 0 : /[a-z]/.test(letter) ? 1 : /[0-9]/.test(letter) ? 2 : -1;
    if (kind < 0 || !starts[kind]) return letter;
    return String.fromCodePoint(starts[kind] + letter.charCodeAt(0) - "Aa0".charCodeAt(kind));
  }).join("");
}

/* Reads one formula. Whatever cannot be read to its end throws, and the formula is shown as its source. */
class Formula {
  constructor(source) {
    this.tokens = source.match(/\\[a-zA-Z]+|\\[\s\S]|\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?|\s+|[\s\S]/gu) || [];
    this.at = 0;
    this.depth = 0;
    this.font = "";
  }

  get next() {
    return this.tokens[this.at];
  }

  skipSpace() {
    while (this.next !== undefined && /^\s/.test(this.next)) this.at += 1;
  }

  take(wanted) {
    this.skipSpace();
    if (wanted !== undefined && this.next !== wanted) throw new Error(`${wanted} expected`);
    if (this.next === undefined) throw new Error("the formula ends too early");
    return this.tokens[this.at++];
  }

  /* Rows of cells, up to (not including) the token that ends them; undefined: the formula's end. */
  table(end) {
    const rows = [[this.row(end)]];
    while (this.next === "&" || this.next === "\\\\") {
      const parting = this.take();
      if (parting === "\\\\") {
        this.optional();
        rows.push([]);
      }
      rows.at(-1).push(this.row(end));
    }
    if (this.next !== end) throw new Error(`${this.next} has no place here`);
    if (rows.length > 1 && rows.at(-1).length === 1 && !rows.at(-1)[0].length) rows.pop();
    return rows;
  }

  row(...ends) {
    if (++this.depth > DEEPEST) throw new Error("nested too deeply");
    const font = this.font;
    const nodes = [];
    for (this.skipSpace(); this.next !== undefined; this.skipSpace()) {
      if (ends.includes(this.next) || ["}", "&", "\\\\", "\\right", "\\end"].includes(this.next)) break;
      if (this.next === "\\over") {
        this.at += 1;
        nodes.splice(0, nodes.length, math("mfrac", math("mrow", ...nodes), math("mrow", ...this.row(...ends))));
      } else nodes.push(...this.scripted());
    }
    this.depth -= 1;
    this.font = font;
    return nodes;
  }

  group() {
    this.take("{");
    const nodes = this.row();
    this.take("}");
    return math("mrow", ...nodes);
  }

  /* What a command or a script applies to: a group, or one token (of a number one digit). */
  argument() {
    this.skipSpace();
    if (this.next === "{") return this.group();
    if (/^\d./.test(this.next || "")) this.tokens.splice(this.at, 1, this.next[0], this.next.slice(1));
    if (this.next === undefined || /^[}&^_]$|^\\\\$/.test(this.next)) throw new Error("something is missing");
    if (++this.depth > DEEPEST) throw new Error("nested too deeply");
    const nodes = this.atom();
    this.depth -= 1;
    return math("mrow", ...nodes);
  }

  /* [text] after a command, as its source. */
  optional() {
    this.skipSpace();
    if (this.next !== "[") return null;
    const end = this.tokens.indexOf("]", this.at);
    if (end < 0) return null;
    const inner = this.tokens.slice(this.at + 1, end).join("");
    this.at = end + 1;
    return inner;
  }

  /* {text}, as its source. */
  raw() {
    this.take("{");
    let depth = 1;
    let text = "";
    for (;;) {
      const token = this.tokens[this.at++];
      if (token === undefined) throw new Error("a brace is not closed");
      depth += (token === "{") - (token === "}");
      if (!depth) return text;
      text += token;
    }
  }

  scripted() {
    let large = false;
    let called = false;
    let base;
    if (["^", "_", "'"].includes(this.next)) base = [math("mrow")];
    else {
      const name = this.next[0] === "\\" ? this.next.slice(1) : "";
      called = FUNCTIONS.has(name);
      large = (name in LARGE && !name.includes("int")) || UNDER.has(name) || /^(under|over)brace$/.test(name);
      base = this.atom();
    }
    let above = null;
    let below = null;
    for (this.skipSpace(); ["^", "_", "'", "\\limits", "\\nolimits"].includes(this.next); this.skipSpace()) {
      const script = this.take();
      if (script === "'") above = math("mrow", ...(above ? [above] : []), operator("′"));
      else if (script === "^" && (!above || above.textContent.endsWith("′"))) above = math("mrow", ...(above ? [above] : []), this.argument());
      else if (script === "_" && !below) below = this.argument();
      else if (script === "^" || script === "_") throw new Error("two scripts");
    }
    const after = called && !/^[([{]$/.test(this.next || "(") ? [this.space("0.17em")] : [];
    if (!above && !below) return [...base, ...after];
    const kind = large ? ["munder", "mover", "munderover"] : ["msub", "msup", "msubsup"];
    const last = base.pop() || math("mrow");
    const parts = [below, above].filter(Boolean);
    return [...base, math(below && above ? kind[2] : below ? kind[0] : kind[1], last, ...parts), ...after];
  }

  atom() {
    const token = this.take();
    if (token === "{") {
      this.at -= 1;
      return [this.group()];
    }
    if (token === "}") throw new Error("a brace too many");
    if (token.length > 1 && token[0] === "\\") return this.command(token.slice(1));
    if (/^\d/.test(token)) return [math("mn", styled(token, this.font))];
    if (token === "~") return [this.space("0.3em")];
    if (/^\p{L}$/u.test(token)) return [this.letter(token)];
    return [operator(token === "-" ? "−" : token === "*" ? "∗" : token)];
  }

  letter(text) {
    const node = math("mi", styled(text, this.font));
    if (this.font === "normal") node.setAttribute("mathvariant", "normal");
    return node;
  }

  space(width) {
    const node = math("mspace");
    node.setAttribute("width", width);
    return node;
  }

  command(name) {
    if (name in LETTERS) return [math("mi", LETTERS[name])];
    if (name in OPERATORS) return [operator(OPERATORS[name])];
    if (name in LARGE) return [withClass(math("mo", LARGE[name]), "large")];
    if (name in DELIMITERS) return [operator(DELIMITERS[name])];
    if (FUNCTIONS.has(name)) return [math("mi", name)];
    if (name in SPACES || /^\s$/.test(name)) return [this.space(SPACES[name] || "0.3em")];
    if (IGNORED.has(name)) return [];
    if (/^[%$#&_]$/.test(name)) return [operator(name)];
    if (TEXTS.has(name)) return [math("mtext", this.raw().replace(/^ | $/g, "\u00a0").replace(/\\([%$#&_{}])/g, "$1"))];
    if (name in FONTS) return this.inFont(name);
    return this.construction(name);
  }

  inFont(name) {
    if (name === "operatorname" || name === "mathrm" || name === "mathsf") {
      if (this.next === "*") this.at += 1;
      this.skipSpace();
      if (this.next === "{" && /^[\p{L}\s~]+$/u.test(this.peekGroup())) return [math("mi", this.raw().replace(/[\s~]+/g, "\u00a0"))];
    }
    const before = this.font;
    this.font = FONTS[name];
    const node = this.argument();
    this.font = before;
    return [node];
  }

  peekGroup() {
    const end = this.tokens.indexOf("}", this.at);
    return end < 0 ? "" : this.tokens.slice(this.at + 1, end).join("");
  }

  construction(name) {
    switch (name) {
      case "frac": case "dfrac": case "tfrac": case "cfrac":
        return [math("mfrac", this.argument(), this.argument())];
      case "binom": case "dbinom": case "tbinom": {
        const inner = math("mfrac", this.argument(), this.argument());
        inner.setAttribute("linethickness", "0");
        return [operator("(", true), inner, operator(")", true)];
      }
      case "sqrt": {
        const degree = this.optional();
        const inner = this.argument();
        return [degree === null ? math("msqrt", inner) : math("mroot", inner, row(new Formula(degree).row()))];
      }
      case "boxed": case "fbox":
        return [withClass(math("mrow", this.argument()), "boxed")];
      case "overset": case "stackrel": {
        const above = this.argument();
        return [math("mover", this.argument(), above)];
      }
      case "underset": {
        const below = this.argument();
        return [math("munder", this.argument(), below)];
      }
      case "pmod":
        return [this.space("0.4em"), operator("("), math("mi", "mod"), this.space("0.3em"), this.argument(), operator(")")];
      case "bmod": case "mod":
        return [this.space("0.2em"), math("mi", "mod"), this.space("0.3em")];
      case "not": {
        const node = this.argument();
        return [math("mrow", math("mtext", `${node.textContent}\u0338`))];
      }
      case "phantom": case "hphantom": case "vphantom":
        return [math("mphantom", this.argument())];
      case "mathop": case "mathrel": case "mathbin": case "mathord":
        return [this.argument()];
      case "tag":
        return [this.space("2em"), math("mtext", `(${this.raw()})`)];
      case "left":
        return this.fenced();
      case "middle":
        return [operator(this.delimiter(), true)];
      case "begin":
        return this.environment();
      default:
        return this.marked(name);
    }
  }

  marked(name) {
    if (name in ACCENTS || name in BELOW) {
      const accent = operator(ACCENTS[name] || BELOW[name], /^(wide|over|under)/.test(name));
      const node = math(name in ACCENTS ? "mover" : "munder", this.argument(), accent);
      node.setAttribute(name in ACCENTS ? "accent" : "accentunder", "true");
      return [node];
    }
    return [withClass(math("mtext", `\\${name}`), "unknown")]; // what it applies to follows, as if it stood alone
  }

  delimiter() {
    const token = this.take();
    if (token === ".") return "";
    if (token[0] === "\\") {
      const found = DELIMITERS[token.slice(1)] || OPERATORS[token.slice(1)];
      if (!found) throw new Error(`${token} is no delimiter`);
      return found;
    }
    return token;
  }

  fenced() {
    const open = this.delimiter();
    const inner = this.row();
    this.take("\\right");
    return [math("mrow", operator(open, true), math("mrow", ...inner), operator(this.delimiter(), true))];
  }

  environment() {
    const name = this.raw();
    if (!TABLES.has(name)) throw new Error(`the environment ${name} is unknown`);
    this.optional();
    if (/^(array|alignat\*?)$/.test(name)) this.raw();
    const rows = this.table("\\end");
    this.take("\\end");
    if (this.raw() !== name) throw new Error("environments overlap");
    const [open, close] = (FENCES[name] || "  ").split("").map((text) => text.trim());
    return [math("mrow", operator(open, true), asTable(rows, /^(align|split|eqn)/.test(name) ? "aligned" : /cases/.test(name) ? "cases" : ""), operator(close, true))];
  }
}

/* how: "aligned" (columns in pairs that meet at the relation, fractions in full size), "cases" (set left) or "" (centred). */
function asTable(rows, how) {
  const aligned = how === "aligned";
  const cell = (nodes, index) => withClass(math("mtd", math("mrow", ...nodes)), aligned && index % 2 === 0 ? "to-right" : how && "to-left");
  const node = withClass(math("mtable", ...rows.map((cells) => math("mtr", ...cells.map(cell)))), how);
  if (aligned) node.setAttribute("displaystyle", "true");
  return node;
}

/* A formula as a `math` element; null where it cannot be read. */
function typeset(source, display) {
  if (source.length > LONGEST_FORMULA) return null;
  try {
    const rows = new Formula(source).table(undefined);
    const inner = rows.length === 1 && rows[0].length === 1 ? math("mrow", ...rows[0][0]) : asTable(rows, "aligned");
    const node = math("math", inner);
    if (display) node.setAttribute("display", "block");
    return node;
  } catch {
    return null;
  }
}
