/* The explorable: a reader moves the toy model and sees its Matryoshka SAE move, from closed forms alone.

The first half is arithmetic, that of `penalised_family` (tests/penalised.py) and `theory.unequal_ratios` in one (tests/test_explorable.py holds it
against both, and against trained SAEs where neither reaches); then come drawings as strings of SVG, and last what happens on a page. Nothing is fetched, nothing is stored. */
"use strict";

const Explorable = (() => {
  const CONTROLS = {
    q: { label: "how often each child fires beside its parent", says: (s) => (s.times > 1 ? chances(s) : [s.q]).map((q) => q.toFixed(2)).join(", ") },
    n: { label: "number of children", says: (s) => `${s.n}` },
    times: { label: "how much more often child 1 fires than the others", says: (s) => (s.times > 1 ? `${s.times} times` : "equally often") },
    beta: { label: "weight of the inner prefix", says: (s) => s.beta.toFixed(s.beta < 1 ? 2 : 1) },
    l1: { label: "L1 penalty", says: (s) => s.l1.toFixed(2) },
    blamed: { label: "factor on the terms that mix", says: (s) => s.blamed.toFixed(2) },
    turn: { label: "turn the view", says: (s) => `${s.turn} degrees` },
  };
  const MODES = {
    whole: "Matryoshka SAE",
    without: "without the terms that mix",
    remedy: "with the remedy",
  };
  const START = { q: 0.4, n: 2, times: 1, beta: 1, l1: 0, blamed: 1, turn: 20, mode: "whole" };

  // The arithmetic

  /** Where a rising function crosses 0 between 0 and `high`; 0 if it starts above. */
  function root(rising, high) {
    let low = 0;
    for (let i = 0; i < 60; i++) {
      const middle = (low + high) / 2;
      if (rising(middle) >= 0) high = middle;
      else low = middle;
    }
    return low > 0 ? high : 0;
  }

  const rest = (b, s) => Math.sqrt(2 - 2 * b * s + b * b);
  const weight = (s) => (s.mode === "without" ? 0 : s.beta * s.blamed);

  /** How often child 1 fires beside its parent, and how often each other one; on average q. */
  function chances({ q, n, times }) {
    const other = (n * q) / (times + n - 1);
    return [times * other, other];
  }

  /** Activation of the parent's latent on parent + child that costs least, where this input's projection on its decoder is s. */
  function beside(s, state) {
    const w = weight(state), l1 = state.l1;
    if (!w || !l1) return w ? s : 0;
    return root((b) => w * (2 * b - 2 * s + l1) + l1 * (1 + (b - s) / rest(b, s)), s);
  }

  /** Cosines of the parent's decoder (with the parent, child 1, each other child), from the clean one by best activations and
  best decoder in turn; without a penalty this is the power iteration toward the top eigenvector of the re-weighted moment. */
  function lean(state) {
    const { q, n, beta, l1 } = state, w = weight(state), often = chances(state);
    let u = [1, 0, 0];
    for (let i = 0, moved = 1; i < 1000 && moved > 1e-14; i++) {
      const [first, other] = often.map((chance, k) => {
        const s = u[0] + u[k + 1], b = beside(s, state);
        return chance * b * (w + l1 / (2 * rest(b, s)));
      });
      const next = [(1 - n * q) * (1 + beta) * (u[0] - l1 / 2) + first + (n - 1) * other, first, other];
      const norm = Math.sqrt(next[0] ** 2 + first ** 2 + (n - 1) * other ** 2), before = u;
      u = next.map((x) => x / norm);
      moved = Math.max(...u.map((x, k) => Math.abs(x - before[k])));
    }
    return u;
  }

  /** Cosines of the latents: the parent's with the parent, child 1 and each other child; of `children`, child 1's and each other
  one's, with the parent, itself, and child 2 or child 1. Then on what share of the inputs with a child the parent's is silent. */
  function solve(state) {
    if (state.mode === "remedy") return { parent: [1, 0, 0], children: [[0, 1, 0], [0, 1, 0]], silent: [false, false], absorption: 0 };
    const u = lean(state), both = [u[0] + u[1], u[0] + u[2]].map((s) => ({ s, b: beside(s, state) }));
    const children = both.map(({ s, b }, i) => [1 - b * u[0], 1 - b * u[i + 1], -b * u[2 - i]].map((x) => x / rest(b, s)));
    const silent = both.map(({ b }) => b === 0), [first] = chances(state), share = first / (state.n * state.q);
    return { parent: u, children, silent, absorption: silent[0] * share + silent[1] * (1 - share) };
  }

  /** Loss on inputs that hold the parent, where its decoder is parent + first (child 1) + other (each other child), at the best
  activations; of the remedy the part that its decoder sees. */
  function loss([first, other], state) {
    const { q, n, beta, l1, mode } = state, norm = Math.sqrt(1 + first * first + (n - 1) * other * other);
    const alone = (1 - n * q) * (1 + beta);
    if (mode === "remedy") return alone * (1 - 1 / (norm * norm));
    const [one, each] = [first, other].map((t) => {
      const s = (1 + t) / norm, b = beside(s, state), r = rest(b, s);
      return weight(state) * (r * r + l1 * b) + l1 * (r + b) - (l1 * l1) / 4;
    });
    const [often, seldom] = chances(state);
    return alone * (1 - (1 / norm - l1 / 2) ** 2) + often * one + (n - 1) * seldom * each;
  }

  const most = (n) => Math.floor(98 / n) / 100;

  /** A state that the closed forms cover: children that exclude each other leave the parent alone at times. */
  function tidy(state) {
    return { ...state, q: Math.min(state.q, most(state.n)), l1: state.mode === "remedy" ? 0 : Math.min(state.l1, 0.3) };
  }

  // The words

  const signed = (x) => {
    const text = Math.abs(x).toFixed(3).replace(/^0/, "");
    return Number(text) === 0 ? "0" : (x < 0 ? "−" : "") + text;
  };

  const others = (state) => (state.n > 2 ? "each other child" : "child 2");

  /** On which inputs the parent's latent is silent; empty if on none. */
  function absorbed(state) {
    const { silent } = solve(state);
    return silent[0] && silent[1] ? "a child" : silent[0] ? "child 1" : silent[1] ? (state.n > 2 ? "another child" : "child 2") : "";
  }

  function words(state) {
    const { parent, children, silent } = solve(state), other = others(state), where = absorbed(state);
    const [often, seldom] = chances(state).map(signed);
    const leans = state.times === 1
      ? `The parent's latent has a cosine of ${signed(parent[1])} with each child (truth 0), and each child's latent ` +
        `one of ${signed(children[0][2])} with its sibling (truth 0).`
      : `Child 1 fires on ${often} of the parent's inputs, ${other} on ${seldom}. The parent's latent has a cosine of ` +
        `${signed(parent[1])} with child 1 and ${signed(parent[2])} with ${other} (truth 0). Child 1's latent has one of ` +
        `${signed(children[0][2])} with ${other}, and ${other}'s latent one of ${signed(children[1][2])} with child 1 (truth 0).`;
    if (state.mode === "remedy") return `${leans} Without a penalty, as shown, the parent's latent fires beside each child: nothing is mixed, nothing is absorbed.`;
    if (where) return `${leans} But with ${state.l1 ? "this" : "any"} penalty the parent's latent is silent wherever ${where} fires, ` +
      `and that child's latent holds the parent with a cosine of ${signed(children[silent[0] ? 0 : 1][0])}: absorption.`;
    return `${leans} The parent's latent fires beside each child: no absorption.`;
  }

  const rounded = (value) => Number(value.toPrecision(4));
  const papermill = (notebook, set) =>
    `papermill notebooks/${notebook}.ipynb out.ipynb ${Object.entries(set).map(([name, value]) => `-p ${name} ${value}`).join(" ")}`;

  /** The command that trains SAEs at these values. What a notebook has no parameter for is left out; unequal children go into a
  tree file, which chapter 11 takes. */
  function command(state, notebook) {
    const rest = { inner_weight: rounded(state.beta), l1: state.mode === "whole" ? state.l1 : Math.max(state.l1, 0.03) };
    const equal = papermill(notebook, { child_probability: rounded(state.q), n_children: state.n, ...rest });
    if (state.times === 1) return equal;
    if (state.mode === "without") return `# No chapter trains unequal children without these terms; this trains equal ones.\n${equal}`;
    const [first, other] = chances(state).map((chance) => ({ active_prob: rounded(chance) }));
    const parent = { active_prob: 0.3, mutually_exclusive_children: true, children: [first, ...Array(state.n - 1).fill(other)] };
    const remedy = state.mode === "remedy" ? { remedy: "ours" } : {};
    return `# Chapter 11 takes unequal children; its SAEs have biases, so their numbers differ a little.\necho '${JSON.stringify({ active_prob: 1, is_read_out: false, children: [parent] })}' > children.json\n` +
      papermill("11_what_cures_it", { tree_path: "children.json", ...rest, ...remedy });
  }

  // The drawings

  const place = (x) => x.toFixed(1);
  const text = (x, y, words, more = "") => `<text x="${place(x)}" y="${place(y)}" ${more}>${words}</text>`;

  function arrow(from, to, kind) {
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]], long = Math.hypot(dx, dy);
    if (long < 4) return `<circle class="${kind}" cx="${place(to[0])}" cy="${place(to[1])}" r="4"/>`;
    const [ux, uy] = [dx / long, dy / long], back = [to[0] - 9 * ux, to[1] - 9 * uy];
    const head = [to, [back[0] - 4.5 * uy, back[1] + 4.5 * ux], [back[0] + 4.5 * uy, back[1] - 4.5 * ux]];
    return `<line class="${kind}" x1="${place(from[0])}" y1="${place(from[1])}" x2="${place(back[0])}" y2="${place(back[1])}"/>` +
      `<polygon class="${kind}" points="${head.map((p) => p.map(place).join(",")).join(" ")}"/>`;
  }

  /** The latents as arrows among the true features; of more than two children the first two. */
  function space(state) {
    const { parent, children: [one, two] } = solve(state), size = 134, centre = [150, 162];
    const angle = (state.turn * Math.PI) / 180, tilt = Math.sin(0.42), up = Math.cos(0.42);
    const at = ([p, first, second]) => [
      centre[0] + size * (first * Math.cos(angle) - second * Math.sin(angle)),
      centre[1] + size * ((first * Math.sin(angle) + second * Math.cos(angle)) * tilt - p * up),
    ];
    const origin = at([0, 0, 0]), truths = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
    const latents = [parent, one, [two[0], two[2], two[1]]];
    const kinds = ["parent", "child", "child"], names = ["parent", "child 1", "child 2"];
    let drawn = "";
    truths.forEach((truth, i) => {
      const end = at(truth), label = at(truth.map((x) => 1.1 * x));
      drawn += `<line class="truth" x1="${place(origin[0])}" y1="${place(origin[1])}" x2="${place(end[0])}" y2="${place(end[1])}"/>`;
      const found = at(latents[i]);
      drawn += `<line class="gap" x1="${place(end[0])}" y1="${place(end[1])}" x2="${place(found[0])}" y2="${place(found[1])}"/>`;
      drawn += text(label[0], label[1] + (i ? 12 : 4), names[i], 'text-anchor="middle"');
    });
    latents.forEach((latent, i) => (drawn += arrow(origin, at(latent), kinds[i])));
    return svg(316, 246, drawn, "Arrows: " + words(state));
  }

  const svg = (width, height, drawn, label) =>
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${label}">${drawn}</svg>`;

  /** A frame with axes; gives the scales and what is drawn. */
  function frame(width, height, [x0, x1], [y0, y1], title, xlabel, xticks, yticks) {
    const [left, right, top, bottom] = [40, width - 18, 24, height - 36];
    const x = (v) => left + ((v - x0) / (x1 - x0)) * (right - left), y = (v) => bottom - ((v - y0) / (y1 - y0)) * (bottom - top);
    let drawn = text(left - 32, 13, title, 'class="title"') + text((left + right) / 2, height - 3, xlabel, 'text-anchor="middle"');
    drawn += `<path class="axis" d="M${left},${top}V${bottom}H${right}"/>`;
    xticks.forEach((v) => (drawn += text(x(v), bottom + 14, signedTick(v), 'text-anchor="middle"')));
    yticks.forEach((v) => (drawn += text(left - 4, y(v) + 4, signedTick(v), 'text-anchor="end"')));
    return { x, y, drawn };
  }
  const signedTick = (v) => String(Number(v.toPrecision(2))).replace("-", "−").replace("0.", ".");
  const path = (points, kind) => `<path class="${kind}" d="M${points.map((p) => p.map(place).join(",")).join("L")}"/>`;
  const dot = (x, y, kind, r = 5) => `<circle class="${kind}" cx="${place(x)}" cy="${place(y)}" r="${r}"/>`;

  /** The loss against the parent's cosine with child 1, on the way from the clean parent through the solution. */
  function valley(state) {
    const { n, times } = state, { parent } = solve(state), found = parent[1], often = chances(state);
    const slope = found ? parent[2] / found : often[1] / often[0], spread = 1 + (n - 1) * slope * slope;
    const end = Math.min(Math.max(0.6, found + 0.1), 0.94 / Math.sqrt(spread));
    const at = (cosine) => {
      const ratio = cosine / Math.sqrt(1 - spread * cosine * cosine);
      return loss([ratio, slope * ratio], state);
    };
    const cosines = Array.from({ length: 61 }, (_, i) => (end * i) / 60), losses = cosines.map(at);
    const low = Math.min(...losses), high = Math.max(...losses), pad = Math.max(0.08 * (high - low), 0.004);
    const range = [low - pad, high + pad], ticks = [low, high];
    const title = state.mode === "remedy" ? "loss that the decoder sees" : "loss";
    const f = frame(316, 170, [-0.03, end], range, title, `parent’s latent: cosine with ${times > 1 ? "child 1" : "a child"}`, [0, 0.2, 0.4, 0.6].filter((v) => v < end), ticks);
    const drawn = f.drawn + path(cosines.map((c, i) => [f.x(c), f.y(losses[i])]), "curve") +
      `<line class="truth" x1="${place(f.x(0))}" x2="${place(f.x(0))}" y1="24" y2="134"/>` +
      text(f.x(0) + 5, 36, "truth") + dot(f.x(found), f.y(at(found)), "parent") +
      (found > 0.02 ? text(f.x(found), f.y(at(found)) - 10, "minimum", 'text-anchor="middle"') : "");
    return svg(316, 170, drawn, `The loss is lowest where the parent's latent has a cosine of ${signed(found)} with ${times > 1 ? "child 1" : "a child"}.`);
  }

  /** Both mixings against the amount `x`, and the trained SAEs of the run as dots. */
  function sweep(state, config) {
    const key = config.x, end = key === "q" ? most(state.n) : config.most;
    const values = Array.from({ length: 61 }, (_, i) => (end * (i + 0.01)) / 60.01);
    const lines = values.map((v) => solve({ ...state, [key]: v }));
    const average = key === "q" && state.times > 1 ? "how often a child fires beside its parent, on average" : CONTROLS[key].label;
    const f = frame(316, 190, [0, end], [-1.05, 0.75], "cosines (truth 0)", average, [0, end / 2, end], [-1, -0.5, 0, 0.5]);
    let drawn = f.drawn + `<line class="truth" x1="${place(f.x(0))}" x2="${place(f.x(end))}" y1="${place(f.y(0))}" y2="${place(f.y(0))}"/>`;
    const one = [["parent", (s, i) => s.parent[i + 1], "parent’s latent with a child"], ["child", (s, i) => s.children[i][2], "child’s latent with a sibling"]];
    const which = state.times > 1 ? [0, 1] : [0], now = solve(state);
    one.forEach(([kind, read, label], i) => {
      which.forEach((k) => {
        drawn += path(lines.map((s, j) => [f.x(values[j]), f.y(read(s, k))]), `line ${kind} ${k ? "second" : ""}`.trim());
      });
      const at = f.y(i ? -0.95 : 0.66);
      drawn += `<rect class="${kind}" x="${place(f.x(0) + 6)}" y="${place(at - 6)}" width="16" height="4"/>` + text(f.x(0) + 27, at, label);
    });
    const same = comparable(state, config);
    (config.dots || []).forEach(([v, toChild, toSibling]) => {
      if (v > end) return;
      drawn += dot(f.x(v), f.y(toChild), same ? "trained" : "trained other", 3);
      if (toSibling !== null) drawn += dot(f.x(v), f.y(toSibling), same ? "trained" : "trained other", 3);
    });
    one.forEach(([kind, read]) => which.forEach((k) => (drawn += dot(f.x(state[key]), f.y(read(now, k)), kind))));
    return svg(316, 190, drawn, `Against ${CONTROLS[key].label}: the closed forms as lines, trained SAEs as small dots.`);
  }

  /** Whether the trained SAEs were trained at these values of all that is not swept. */
  function comparable(state, config) {
    return state.mode === "whole" && state.times === 1 && Object.entries(config.run || {}).every(([key, value]) => Math.abs(state[key] - value) < 1e-9);
  }

  /** What stands above the controls, as HTML. */
  function picture(state, config) {
    const { absorption } = solve(state), lines = state.times > 1 ? `child 1 drawn through, ${others(state)} dotted` : "closed forms";
    const many = state.n > 2 ? `, two of ${state.n} children` : "";
    const dots = (config.dots || []).length ? (comparable(state, config)
      ? "Small dots: trained SAEs of this run."
      : "Pale dots: trained SAEs of this run, at its own values, not these.") : "";
    return `<div class="explorable-panels"><figure>${space(state)}<figcaption>Dashed: true features${many}. ` +
      `<span class="key parent"></span> parent’s latent, <span class="key child"></span> each child’s latent.</figcaption></figure>` +
      `<figure>${valley(state)}${sweep(state, config)}<figcaption>Lines: ${lines}. ${dots}</figcaption></figure></div>` +
      `<div class="explorable-meter"><span>absorption</span><span class="bar"><span style="width:${100 * absorption}%"></span></span>` +
      `<span>${absorption ? `every input with ${absorbed(state)}` : "none"}</span></div>`;
  }

  // The page

  const toSlider = { q: (v) => v, n: (v) => v, times: (v) => v, beta: Math.log10, l1: (v) => v, blamed: (v) => v, turn: (v) => v };
  const ranges = (state, config) => ({
    q: [0.02, most(state.n), 0.01], n: [2, 12, 1], times: [1, 10, 0.5], beta: [-1, 1, 0.05], l1: [0, 0.3, 0.01], blamed: [0, config.most || 2, 0.05], turn: [-60, 60, 5],
  });

  function mount(root, number) {
    const config = JSON.parse(root.querySelector('script[type="application/json"]')?.textContent || "{}");
    config.x ||= "q";
    config.controls ||= ["q", "n", "times", "beta", "l1", "turn"];
    let state = tidy({ ...START, ...config.start });
    const id = (name) => `explorable-${number}-${name}`;
    const rows = config.controls.map((key) =>
      `<div class="row"><label for="${id(key)}">${CONTROLS[key].label}</label><input type="range" id="${id(key)}" data-key="${key}">` +
      `<output for="${id(key)}"></output></div>`).join("");
    const radios = Object.entries(MODES).map(([mode, label]) =>
      `<label><input type="radio" name="${id("mode")}" value="${mode}" ${mode === state.mode ? "checked" : ""}> ${label}</label>`).join("");
    root.innerHTML = `<div class="explorable-picture"></div><p class="explorable-words" aria-live="polite"></p>` +
      (config.modes === false ? "" : `<fieldset><legend>What trains the SAE</legend>${radios}</fieldset>`) +
      `<div class="explorable-controls">${rows}</div>` +
      `<p class="explorable-buttons"><button type="button" data-do="copy">Copy the papermill command for these values</button> ` +
      `<button type="button" data-do="reset">Start again</button> <span role="status"></span></p><code class="explorable-command" tabindex="0"></code>`;
    const find = (selector) => root.querySelector(selector);
    const notebook = () => (config.notebooks || {})[state.mode] || config.notebook || "03_matryoshka_inherits";

    function show() {
      state = tidy(state);
      find(".explorable-picture").innerHTML = picture(state, config);
      find(".explorable-words").textContent = words(state);
      find(".explorable-command").textContent = command(state, notebook());
      const limits = ranges(state, config);
      root.querySelectorAll("input[type=range]").forEach((input) => {
        const key = input.dataset.key, said = CONTROLS[key].says(state);
        [input.min, input.max, input.step] = limits[key];
        input.value = toSlider[key](state[key]);
        input.disabled = key === "l1" && state.mode === "remedy";
        input.setAttribute("aria-valuetext", said);
        input.nextElementSibling.textContent = said;
      });
    }
    root.addEventListener("input", (event) => {
      const { type, value, dataset } = event.target;
      if (type === "radio") state.mode = value;
      else if (dataset.key) state[dataset.key] = dataset.key === "beta" ? 10 ** Number(value) : Number(value);
      find("[role=status]").textContent = "";
      show();
    });
    root.addEventListener("click", async (event) => {
      if (event.target.dataset.do === "reset") {
        state = { ...START, ...config.start };
        root.querySelectorAll("input[type=radio]").forEach((radio) => (radio.checked = radio.value === state.mode));
        show();
      } else if (event.target.dataset.do === "copy") {
        const copied = await navigator.clipboard?.writeText(find(".explorable-command").textContent).then(() => true, () => false);
        find("[role=status]").textContent = copied ? "Copied." : "Select the command below and copy it.";
      }
    });
    show();
  }

  return { START, solve, loss, tidy, words, command, picture, mount };
})();

if (typeof module !== "undefined") module.exports = Explorable;
else document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".explorable").forEach(Explorable.mount));
