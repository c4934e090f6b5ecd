// The board's own script: live updates, times, keys. Pages can be read without it.
(() => {
  "use strict";
  const PAUSE_MS = 2000, RETRY_MS = 5000, TICK_MS = 1000;
  const main = () => document.querySelector("main");
  const skew = Date.parse(document.body.dataset.now) - Date.now();

  // --- Live updates: the stream says what changed, and the page fetches itself anew. What is open stays open.
  let lastRefresh = Date.now(), waiting = null, busy = false;
  const isTyping = () => {
    const at = document.activeElement;
    return at && main().contains(at) && /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName) && at.value !== at.defaultValue;
  };
  async function refresh() {
    waiting = null;
    if (busy || document.hidden || isTyping()) { if (!document.hidden) later(); return; }
    busy = true;
    lastRefresh = Date.now();
    try {
      await htmx.ajax("GET", location.pathname + location.search, {target: "main", select: "main", swap: "outerMorph", push: "false"});
      tell();
      mark();
    } catch { later(); } finally { busy = false; }
  }
  function later() {
    if (waiting === null) waiting = setTimeout(refresh, Math.max(0, lastRefresh + PAUSE_MS - Date.now()));
  }
  function concerns(change) {
    const mine = (main().dataset.topics || "").split(" ");
    return change.topics.some(topic => mine.includes(topic)) || change.orders.includes(main().dataset.watched);
  }
  function listen() {
    if (!main().dataset.topics && !main().dataset.watched) return;
    const watched = main().dataset.watched;
    const stream = new EventSource("/ui/events" + (watched ? "?order_id=" + encodeURIComponent(watched) : ""));
    stream.addEventListener("changed", event => { if (concerns(JSON.parse(event.data))) later(); });
    // What changed between the making of the page and the opening of the stream, nobody would tell.
    stream.onopen = () => { document.body.classList.remove("stale"); later(); };
    stream.onerror = () => {
      document.body.classList.add("stale");
      if (stream.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MS);
    };
    addEventListener("pagehide", () => stream.close(), {once: true});
  }
  addEventListener("pageshow", event => { if (event.persisted) listen(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && main().dataset.topics) later(); });

  // --- Times: relative, as time goes by; the absolute and local one on hover.
  function words(seconds) {
    const size = Math.abs(seconds);
    if (size < 1) return "now";
    const [value, unit] = size < 120 ? [Math.round(size), "s"] : size < 7200 ? [Math.round(size / 60), "min"]
      : size < 172800 ? [(size / 3600).toFixed(1), "h"] : [Math.round(size / 86400), "days"];
    return seconds > 0 ? `${value} ${unit} ago` : `in ${value} ${unit}`;
  }
  function tell() {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (time.classList.contains("relative")) time.textContent = words((Date.now() + skew - at) / 1000);
      else if (time.classList.contains("clock")) time.textContent = at.toLocaleTimeString(undefined, {hour12: false}) + "." + String(at.getMilliseconds()).padStart(3, "0");
      const title = `${at.toLocaleString(undefined, {dateStyle: "medium", timeStyle: "medium"})} (${at.toISOString()})`;
      if (time.title !== title) time.title = title;
    }
  }
  setInterval(() => {
    tell();
    // Why a service has not answered is asked when the page is: no change in the database tells of it.
    const every = Number(main().dataset.every || 0);
    if (every && !document.hidden && Date.now() - lastRefresh > every * 1000) later();
  }, TICK_MS);

  // --- Keys
  let chosen = -1;
  const rows = () => [...document.querySelectorAll("main [data-href]")];
  function mark() {
    const all = rows();
    if (chosen >= all.length) chosen = all.length - 1;
    all.forEach((row, at) => row.classList.toggle("chosen", at === chosen));
  }
  function choose(step) {
    const all = rows();
    if (!all.length) return;
    chosen = Math.min(all.length - 1, Math.max(0, chosen + step));
    mark();
    all[chosen].scrollIntoView({block: "nearest"});
  }
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const help = document.getElementById("keys");
    if (event.key === "Escape") { document.activeElement.blur(); if (help.open) help.close(); return; }
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
    if (event.key === "/") { event.preventDefault(); document.getElementById("find").focus(); }
    else if (event.key === "j") choose(1);
    else if (event.key === "k") choose(-1);
    else if (event.key === "Enter" && event.target === document.body && chosen >= 0) location.href = rows()[chosen].dataset.href;
    else if (event.key === "?") { if (help.open) help.close(); else help.showModal(); }
  });
  document.addEventListener("click", event => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    navigator.clipboard?.writeText(button.dataset.copy).then(() => { button.textContent = "copied"; });
  });
  document.addEventListener("change", event => {
    if (event.target.matches("[data-all]")) for (const box of document.querySelectorAll(`input[name="${event.target.dataset.all}"]`)) box.checked = event.target.checked;
  });

  document.body.classList.add("scripted");
  tell();
  listen();
})();
