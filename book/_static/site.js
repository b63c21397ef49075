/* What every page of the book does after it has loaded. Nothing is fetched. */
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  formulas();
  verdictFilter();
  help();
  scrollers();
});

/** A box that scrolls must be reachable by keyboard, and only such a box. */
function scrollers() {
  const boxes = ".figure-box, .pst-scrollable-table-container, .verdict-box, .output.text_html, .output.text_html > div, " +
    "div.math, .highlight pre";
  const look = (box) => (box.scrollWidth > box.clientWidth ? (box.tabIndex = 0) : box.removeAttribute("tabindex"));
  const watch = new ResizeObserver((seen) => seen.forEach(({ target }) => look(target)));
  document.querySelectorAll(boxes).forEach((box) => {
    look(box);
    watch.observe(box);
  });
}

/** TeX without the delimiters that Sphinx leaves around it. */
const tex = (text) => text.trim().replace(/^\\[([]|\\[)\]]$/g, "");

/** Set every formula; Sphinx leaves TeX between its delimiters. */
function formulas() {
  if (typeof katex === "undefined") return;
  const sheet = document.createElement("link");
  sheet.rel = "stylesheet";
  sheet.href = document.querySelector('script[src*="katex.min.js"]').src.replace(/\.js.*$/, ".css");
  document.head.append(sheet);
  document.querySelectorAll(".math").forEach((element) => {
    element.childNodes.forEach((node) => {
      if (node.nodeType !== Node.TEXT_NODE || !node.textContent.trim()) return;
      const source = tex(node.textContent), set = document.createElement("span");
      set.className = "formula";
      const header = element.closest("th") !== null; // checkers of pages see no text in MathML, and a header needs some
      const output = header ? "html" : "htmlAndMathml";
      katex.render(source, set, { displayMode: element.tagName === "DIV", throwOnError: false, output });
      if (header) set.insertAdjacentHTML("beforeend", `<span class="visually-hidden">${source.replace(/[<&]/g, "")}</span>`);
      node.replaceWith(set);
    });
  });
}

/** Buttons over the table of verdicts that show one kind of verdict; the choice stands in the address. */
function verdictFilter() {
  const table = document.querySelector("#verdicts table");
  if (!table) return;
  const rows = [...table.tBodies[0].rows], kind = (row) => row.querySelector(".verdict")?.className.match(/verdict-(\w+)/)?.[1];
  rows.forEach((row) => {
    const title = row.querySelector("a.reference, a")?.textContent || row.cells[0].textContent;
    row.id ||= "claim-" + title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
    const link = document.createElement("a");
    link.className = "headerlink";
    link.href = "#" + row.id;
    link.textContent = "#";
    link.setAttribute("aria-label", `Permalink to the verdict: ${title}`);
    const name = row.cells[0].querySelector("a:not(.headerlink)");
    if (name) name.after(" ", link);
    else row.cells[0].prepend(link, " ");
  });
  const kinds = [...new Set(rows.map(kind))];
  const bar = document.createElement("div");
  bar.className = "verdict-filter";
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "Show verdicts");
  const said = document.createElement("span");
  said.setAttribute("role", "status");
  const choose = (chosen) => {
    rows.forEach((row) => (row.hidden = chosen !== "all" && kind(row) !== chosen));
    bar.querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", button.value === chosen));
    said.textContent = chosen === "all" ? "" : `${rows.filter((row) => !row.hidden).length} of ${rows.length} claims shown`;
  };
  ["all", ...kinds].forEach((value) => {
    const button = document.createElement("button"), count = rows.filter((row) => value === "all" || kind(row) === value).length;
    button.type = "button";
    button.value = value;
    button.textContent = `${value} (${count})`;
    button.addEventListener("click", () => {
      choose(value);
      history.replaceState(null, "", value === "all" ? location.pathname : `?verdict=${value}`);
    });
    bar.append(button);
  });
  bar.append(said);
  (table.closest(".pst-scrollable-table-container") || table).before(bar);
  const asked = new URLSearchParams(location.search).get("verdict");
  choose(kinds.includes(asked) ? asked : "all");
  if (location.hash.startsWith("#claim-")) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

/** Terms, equation numbers and citations say what they stand for, on hover and on focus. */
function help() {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);
  const pages = {};
  const read = async (link) => {
    const [page, id] = link.href.split("#");
    if (page === location.href.split("#")[0]) return document.getElementById(decodeURIComponent(id));
    pages[page] ||= fetch(page).then((answer) => answer.text()).then((text) => new DOMParser().parseFromString(text, "text/html"));
    return (await pages[page]).getElementById(decodeURIComponent(id));
  };
  /** What a place says, as text; of an equation the formula itself. */
  const meaning = (target) => {
    if (!target) return "";
    if (target.matches("div.math")) {
      const formula = target.querySelector(".formula");
      if (formula) return formula.cloneNode(true);
      const set = document.createElement("span"); // from another page, where it still is TeX
      if (typeof katex === "undefined") return "";
      const source = [...target.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.textContent);
      katex.render(tex(source.join("")), set, { displayMode: true, throwOnError: false });
      return set;
    }
    if (target.tagName === "DT") {
      let next = target;
      while (next && next.tagName !== "DD") next = next.nextElementSibling;
      return next?.textContent.trim();
    }
    return target.textContent.replace(/[#¶]/g, "").trim();
  };
  let wanted = null;
  const show = async (link) => {
    wanted = link;
    const words = meaning(await read(link).catch(() => null));
    if (!words || wanted !== link) return;
    tip.replaceChildren(words.length > 400 ? words.slice(0, 400) + "…" : words);
    tip.hidden = false;
    link.setAttribute("aria-describedby", "tip");
    place();
  };
  /** Beside its link, also while the page scrolls: it does when the focus comes to a link further down. */
  const place = () => {
    if (!wanted || tip.hidden) return;
    const box = wanted.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = (box.bottom + tip.offsetHeight + 8 < innerHeight ? box.bottom + 4 : box.top - tip.offsetHeight - 4) + "px";
  };
  const hide = () => {
    wanted?.removeAttribute("aria-describedby");
    wanted = null;
    tip.hidden = true;
  };
  document.querySelectorAll("main a.reference.internal").forEach((link) => {
    if (!link.querySelector(".std-term") && !link.closest(".citation, [id^=id]") && !/#(term-|id\d|cite|equation-)/.test(link.href)) return;
    if (link.querySelector(".std-term")) link.classList.add("term");
    for (const event of ["mouseenter", "focus"]) link.addEventListener(event, () => show(link));
    for (const event of ["mouseleave", "blur"]) link.addEventListener(event, hide);
  });
  addEventListener("keydown", (event) => event.key === "Escape" && hide());
  addEventListener("scroll", place, { passive: true });
}
