"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const queries = document.getElementById("queries");
  const sections = () => all("section.query", queries);
  const navigation = document.querySelector("nav ol");
  const onlyBridged = document.getElementById("only-bridged");

  // The viewer shows one ranked photo: the way to it, copied from where the page keeps it.
  const viewer = document.getElementById("viewer");
  const body = viewer.querySelector(".body");
  let opened = null;

  const visible = (tile) => !onlyBridged.checked || tile.closest(".bridged");
  const neighbours = (tile) => all("button[data-way]", tile.closest(".hits")).filter(visible);

  function show(tile) {
    opened = tile;
    const way = document.getElementById(tile.dataset.way);
    const tiles = neighbours(tile);
    const at = tiles.indexOf(tile);
    const title = document.getElementById("viewer-title");
    title.replaceChildren(
      ...all(".rank, .mark, .badge, .id", tile).map((part) => part.cloneNode(true)));
    body.replaceChildren(
      ...(way.content
        ? [way.content.cloneNode(true)]
        : [way.querySelector(".strip").cloneNode(true), way.querySelector(".pairs").cloneNode(true)]));
    viewer.querySelector('[data-step="-1"]').disabled = at <= 0;
    viewer.querySelector('[data-step="1"]').disabled = at >= tiles.length - 1;
    if (!viewer.open) viewer.showModal();
    body.scrollTop = 0;
    history.replaceState(null, "", "#" + tile.dataset.way);
  }

  function step(by) {
    const tiles = neighbours(opened);
    const next = tiles[tiles.indexOf(opened) + by];
    if (next) show(next);
  }

  viewer.addEventListener("close", () => {
    history.replaceState(null, "", "#" + opened.closest(".query").id);
    opened.focus({ preventScroll: false });
  });
  viewer.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.target === viewer || button?.hasAttribute("data-close")) viewer.close();
    else if (button?.dataset.step) step(Number(button.dataset.step));
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  queries.addEventListener("click", (event) => {
    const tile = event.target.closest("button[data-way]");
    if (tile) show(tile);
  });

  function openFromHash() {
    const tile = /^#q\d+-\d+$/.test(location.hash)
      && document.querySelector(`button[data-way="${location.hash.slice(1)}"]`);
    if (tile) show(tile);
  }
  addEventListener("hashchange", openFromHash);
  openFromHash();

  // Order of the queries, in the page and in the navigation alike.
  const order = document.getElementById("order");
  order.closest("label").hidden = false;
  const number = (section, key, missing) =>
    section.dataset[key] === "" ? missing : Number(section.dataset[key]);
  const before = {
    given: () => 0,
    gain: (a, b) => number(b, "gain") - number(a, "gain"),
    ap: (a, b) => number(b, "ap", -1) - number(a, "ap", -1),
    "ap-low": (a, b) => number(a, "ap", 101) - number(b, "ap", 101),
  };
  order.addEventListener("change", () => {
    const sorted = sections().sort(
      (a, b) => before[order.value](a, b) || number(a, "number") - number(b, "number"));
    queries.append(...sorted);
    navigation.append(...sorted.map((s) => navigation.querySelector(`[data-query="${s.id}"]`)));
    sorted[0]?.scrollIntoView();
  });

  // Keys that move from query to query.
  addEventListener("keydown", (event) => {
    if (viewer.open || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("select, textarea")) return;
    if (event.key === "b") onlyBridged.click();
    if (event.key !== "j" && event.key !== "k") return;
    const shown = sections().filter((section) => section.offsetParent !== null);
    const tops = shown.map((section) => section.getBoundingClientRect().top);
    const margin = parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop);
    const at = event.key === "j"
      ? tops.findIndex((top) => top > margin + 4)
      : tops.findLastIndex((top) => top < margin - 4);
    if (at < 0) return;
    shown[at].scrollIntoView();
    shown[at].focus({ preventScroll: true });
  });

  // The navigation follows the page.
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      for (const link of all("a[aria-current]", navigation)) link.removeAttribute("aria-current");
      const link = navigation.querySelector(`[data-query="${target.id}"] a`);
      link.setAttribute("aria-current", "true");
      const list = navigation.parentElement;
      const box = link.getBoundingClientRect(), frame = list.getBoundingClientRect();
      if (box.top < frame.top || box.bottom > frame.bottom) list.scrollTop += box.top - frame.top - frame.height / 3;
      if (box.left < frame.left || box.right > frame.right) list.scrollLeft += box.left - frame.left - 16;
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  sections().forEach((section) => seen.observe(section));
})();
