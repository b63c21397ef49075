/* How search ranks what it finds: a chapter that explains a word comes before the function that bears it. */
var Scorer = {
  score: ([page, , anchor, , score]) => score + (page.startsWith("notebooks/") ? 10 : page === "book/api" ? -20 : 4) - (anchor ? 1 : 0),
  objNameMatch: 4,
  objPartialMatch: 2,
  objPrio: { 0: 2, 1: 1, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
