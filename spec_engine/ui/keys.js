// Keys of the page: Escape stops, Alt+C continues an answer, Alt+N begins a new chat, "/" goes to the question; where the
// focus goes.
let isListOpen = false; // of the field in which a key was pressed, before anything was done about it
const isExpanded = (field) => field?.getAttribute("aria-expanded") === "true";
document.addEventListener("keydown", (event) => {
  const field = event.target.closest?.('[role="combobox"]');
  isListOpen = isExpanded(field);
  if (!field || event.key !== "Tab") return;
  event.stopPropagation();
  for (const list of document.querySelectorAll('ul[role="listbox"]')) list.tabIndex = -1; // it closes: no place to stop
}, true);
// Gradio opens a list a moment after any key in its field, Tab too: it would stay open over what comes next.
document.addEventListener("focusout", (event) => {
  const field = event.target.closest?.('[role="combobox"]');
  if (!field) return;
  for (const wait of [60, 250, 1000]) setTimeout(() => {
    if (document.activeElement === field || !isExpanded(field)) return;
    field.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  }, wait);
});
let newestKey = 0;
addEventListener("keydown", (event) => { if (event.isTrusted) newestKey += 1; }, true);
// What is chosen in a list by Enter is left by Gradio, to nowhere: whoever chose it goes on from there. It opens its list
// when it is come back to, as if by a person: that is closed again.
document.addEventListener("keydown", (event) => {
  const field = event.target.closest?.('[role="combobox"]'), place = field?.closest("[id^=se-]")?.id;
  if (!place || event.key !== "Enter" || !isExpanded(field)) return;
  const started = performance.now(), own = newestKey;
  let isBack = false;
  const look = () => {
    const now = document.activeElement, again = document.querySelector(`#${place} [role="combobox"]`);
    if (own !== newestKey || (now !== document.body && now !== again)) return;
    if (now === document.body && again) {
      again.focus({ preventScroll: true });
      isBack = true;
    }
    if (isBack && isExpanded(again)) again.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
    if (performance.now() - started < 1500) setTimeout(look, 60);
  };
  setTimeout(look, 60);
}, true);
document.addEventListener("keydown", (event) => {
  const press = (selector) => {
    const button = document.querySelector(selector);
    if (button && button.offsetParent !== null && !button.disabled) button.click();
  };
  const dialog = document.querySelector("dialog[open]"); // its own keys come first
  if (dialog && event.key === "Escape" && event.target.type === "search" && !event.isComposing) { event.preventDefault(); dialog.close(); }
  if (dialog) return;
  const isTyping = event.target.matches("input, textarea, [contenteditable]");
  const isClearing = event.target.type === "search" && event.target.value !== "";
  if (event.key === "Escape") { if (!isListOpen && !isClearing) press("#se-stop"); } // else it closes the list or clears
  else if (event.altKey && event.code === "KeyC") { event.preventDefault(); press("#se-continue"); }
  else if (event.altKey && event.code === "KeyN") { event.preventDefault(); press("#se-new"); }
  else if (event.key === "/" && !isTyping) {
    event.preventDefault();
    document.querySelector("#se-box textarea, #se-box input")?.focus();
  }
});

// The list of conversations is one stop of the Tab key, at the one that has the focus or is shown; arrows go from one to
// the next; what opens one is Enter or the space bar.
const CONVERSATION = "#se-conversations input[type=radio]";
const makeOneStop = () => {
  const all = [...document.querySelectorAll(CONVERSATION)];
  const stop = all.find((one) => one === document.activeElement) ?? all.find((one) => one.checked) ?? all[0];
  for (const one of all) one.tabIndex = one === stop ? 0 : -1;
};
document.addEventListener("focusin", (event) => { if (event.target.matches?.(CONVERSATION)) makeOneStop(); });
document.addEventListener("keydown", (event) => {
  const one = event.target.closest?.(CONVERSATION);
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (!one || event.altKey || event.ctrlKey || event.metaKey) return;
  const all = [...document.querySelectorAll(CONVERSATION)];
  if (step) all[(all.indexOf(one) + step + all.length) % all.length].focus();
  else if (event.key === "Enter") one.click();
  else return;
  event.preventDefault();
  event.stopPropagation();
}, true);

// A question that is edited is sent by Enter and left as it was by Escape.
document.addEventListener("keydown", (event) => {
  if (!event.target.matches?.("#se-chat textarea") || event.isComposing) return;
  const name = event.key === "Escape" ? "Cancel" : event.key === "Enter" && !event.shiftKey ? "Submit" : "";
  if (!name) return;
  event.preventDefault();
  event.stopPropagation();
  event.target.closest(".message-row")?.querySelector(`button[aria-label="${name}"]`)?.click();
}, true);

// A button that goes away when a key has pressed it leaves the focus where one goes on.
const NEXT = { "se-delete-really": "#se-search input, #se-search textarea", "se-delete-not": "#se-delete" };
let newestPress = 0; // whoever presses another button, or goes on by mouse, is where they want to be
document.addEventListener("pointerdown", () => { newestPress += 1; });
document.addEventListener("click", (event) => {
  const button = event.target.closest?.("button"), before = document.activeElement;
  if (!button || event.detail !== 0 || before === document.body) return;
  const own = newestPress += 1, started = performance.now(), next = NEXT[button.id] ?? "#se-box textarea, #se-box input";
  const look = () => {
    const now = document.activeElement;
    if (own !== newestPress) return;
    if (now === document.body) document.querySelector(next)?.focus({ preventScroll: true });
    else if (now === before && performance.now() - started < 3000) setTimeout(look, 100);
  };
  setTimeout(look, 100);
});

// A link to a place in the document shows it in a dialog over the page; with a modifier key it opens as a page of its own.
let newestPlace = 0, leftList = { name: null, top: 0 }; // what is asked for last is shown; a list is come back to where it was
const nameOf = (place, address) => `${new URL(address).searchParams.get("words")} ${place.querySelector("[role=status]")?.textContent}`;
const showPlace = async (address) => {
  const own = newestPlace += 1, answer = await fetch(address).catch(() => null); // null: the program has ended
  const page = new DOMParser().parseFromString(await answer?.text().catch(() => "") ?? "", "text/html");
  if (own !== newestPlace) return;
  let dialog = document.querySelector("#se-place");
  if (!dialog) {
    dialog = document.createElement("dialog");
    dialog.id = "se-place";
    dialog.setAttribute("aria-label", "A place in the document");
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => { newestPlace += 1; });
    document.body.append(dialog);
  }
  const close = Object.assign(document.createElement("button"), { textContent: "×", title: "Close", className: "se-close" });
  close.setAttribute("aria-label", "Close");
  close.addEventListener("click", () => dialog.close());
  const missing = answer ? "This place is not there any more." : "The program does not answer. Start it again, then reload this page.";
  const place = page.querySelector("main") ?? Object.assign(document.createElement("main"), { textContent: missing });
  if (dialog.querySelector(".se-found")) leftList = { name: nameOf(dialog, dialog.dataset.address), top: dialog.scrollTop };
  dialog.dataset.address = answer?.url ?? new URL(address, location).href;
  dialog.replaceChildren(close, place);
  if (!dialog.open) dialog.showModal();
  const field = place.querySelector("input[type=search]");
  (field ?? close).focus({ preventScroll: true });
  field?.setSelectionRange(field.value.length, field.value.length);
  if (field) {
    dialog.scrollTop = leftList.name === nameOf(place, dialog.dataset.address) ? leftList.top : 0;
    return;
  }
  const show = () => {
    const mark = [...dialog.querySelectorAll("mark")].find((one) => one.checkVisibility({ contentVisibilityAuto: true }));
    if (mark) mark.scrollIntoView({ block: "center" });
    else dialog.scrollTop = 0;
    return mark;
  };
  if (show()) return;
  place.querySelector("details")?.addEventListener("toggle", show, { once: true }); // text behind a picture
  const picture = place.querySelector("img[data-mark]");
  const showMark = () => { dialog.scrollTop = picture.offsetTop + picture.dataset.mark * picture.height - dialog.clientHeight / 2; };
  if (picture?.complete) showMark();
  else picture?.addEventListener("load", showMark, { once: true });
};
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a.se-place-link");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
  event.preventDefault();
  showPlace(link.href);
});

document.addEventListener("submit", (event) => {
  const form = event.target.closest?.("form.se-find");
  if (!form) return;
  event.preventDefault();
  showPlace(`${form.getAttribute("action")}?${new URLSearchParams(new FormData(form))}`);
});

// What is copied of the conversation is the text: without the joiners that keep markup in it from being markup.
const asWritten = (shown) => shown.replace(/([<&!])\u2060/g, "$1");
if (navigator.clipboard) {
  const write = navigator.clipboard.writeText.bind(navigator.clipboard);
  navigator.clipboard.writeText = (shown) => write(asWritten(shown));
}
document.addEventListener("copy", (event) => {
  const field = document.activeElement, selection = document.getSelection();
  const isField = field?.matches("textarea, input");
  const shown = isField ? field.value.slice(field.selectionStart, field.selectionEnd) : selection.toString();
  if (!shown || asWritten(shown) === shown) return;
  event.preventDefault();
  event.clipboardData.setData("text/plain", asWritten(shown));
  if (isField) return;
  const copy = document.createElement("div");
  for (let i = 0; i < selection.rangeCount; i++) copy.append(selection.getRangeAt(i).cloneContents());
  event.clipboardData.setData("text/html", copy.innerHTML.replace(/(&lt;|&amp;|!)\u2060/g, "$1"));
});

// Another conversation, also after a reload, is shown at its end, until somebody scrolls. The hidden field tells which.
let shownView = "";
const beat = () => document.querySelector("#se-beat textarea, #se-beat input")?.value ?? "";
setInterval(() => {
  const view = beat().split(".")[1]?.replace(/\D/g, "");
  if (!view || view === shownView) return;
  const isTyping = document.activeElement?.matches("#se-left textarea, #se-left input:not([type=radio])");
  if (shownView && !isTidying && !isTyping) { // another tab may have changed it
    openLeft(false);
    if (document.querySelector(".se-fold")?.offsetParent) scrollTo(0, 0); // the chat fits below it
  }
  [shownView, isTidying] = [view, false];
  const until = performance.now() + 1500, stop = new AbortController();
  for (const kind of ["wheel", "touchstart", "pointerdown", "keydown"]) {
    document.addEventListener(kind, () => stop.abort(), { passive: true, signal: stop.signal });
  }
  const stay = () => {
    if (stop.signal.aborted || shownView !== view) return;
    const talk = document.querySelector("#se-talk");
    if (talk && document.querySelector("#se-chat .message-row")) talk.scrollTop = talk.scrollHeight;
    if (performance.now() < until) requestAnimationFrame(stay);
    else stop.abort();
  };
  stay();
}, 300);

// In a narrow window the left pane is folded to a line once there is a document to ask about, until a person opens it,
// and again when another conversation or document is shown, unless one was just deleted there.
const isLeftOpen = () => document.querySelector("#se-main")?.dataset.left === "open";
const openLeft = (isOpen) => {
  document.querySelector("#se-main").dataset.left = isOpen ? "open" : "";
  tellFolds();
};
let isTidying = false; // until something else is done, also where the deletion was refused
for (const kind of ["drop", "change"]) document.addEventListener(kind, () => { isTidying = false; }, true);
document.addEventListener("click", (event) => {
  isTidying = Boolean(event.target.closest?.("#se-delete-really"));
  if (event.target.closest?.(".se-fold")) openLeft(!isLeftOpen());
});

// Parts that fold away say whether they are open.
const tellFolds = () => {
  makeOneStop();
  const left = document.querySelector(".se-fold");
  if (left && left.getAttribute("aria-expanded") !== String(isLeftOpen())) left.setAttribute("aria-expanded", isLeftOpen());
  for (const fold of document.querySelectorAll("button.label-wrap")) {
    const isOpen = String(fold.classList.contains("open"));
    if (fold.getAttribute("aria-expanded") !== isOpen) fold.setAttribute("aria-expanded", isOpen);
  }
};
new MutationObserver(tellFolds).observe(document.documentElement, { subtree: true, childList: true, attributes: true, attributeFilter: ["class"] });
tellFolds();

// What appears out of sight in a narrow window, a remark or that something has begun, is brought into view; in the latter
// case, while a person is in the pane on the left, only what somebody waits for, as a file that is opened.
const REMARK = "#se-notice .se-notice", WORK = "#se-live .se-live";
let lastRemark = null, lastAwaited = "", wasWorking = false;
let sight = REMARK, numLooks = 0; // more than one, as what comes above it moves it
for (const kind of ["wheel", "touchstart", "pointerdown", "keydown"]) addEventListener(kind, () => { numLooks = 0; }, { passive: true });
setInterval(() => {
  const remark = document.querySelector(REMARK), work = document.querySelector(WORK);
  const awaited = work ? beat().match(/(.*)[+?]$/)?.[1] ?? "" : "";
  const isNews = work && ((!wasWorking && !isLeftOpen()) || (awaited && awaited !== lastAwaited)); // also what comes behind other work
  if (remark && remark !== lastRemark) [sight, numLooks] = [REMARK, 5];
  else if (isNews) [sight, numLooks] = [WORK, 5];
  const shown = numLooks-- > 0 ? document.querySelector(sight) : null;
  [lastRemark, lastAwaited, wasWorking] = [remark, awaited, work !== null];
  if (navigator.userActivation?.hasBeenActive !== false) shown?.scrollIntoView({ block: "nearest" });
}, 300);

// A race that begins is brought into view and kept there as its lanes grow, until it is over or somebody scrolls.
document.addEventListener("click", (event) => {
  if (!event.target.closest?.("#se-compare")) return;
  const stop = new AbortController();
  for (const kind of ["wheel", "touchstart", "pointerdown", "keydown"]) {
    document.addEventListener(kind, () => stop.abort(), { passive: true, signal: stop.signal });
  }
  let until = performance.now() + 5000; // until it runs, and a moment longer, as what stands above it comes back
  const show = () => {
    const now = performance.now();
    if (document.querySelector("#se-race [aria-busy]")) until = now + 1500;
    if (stop.signal.aborted || now > until) return stop.abort();
    document.querySelector("#se-race .se-lanes")?.scrollIntoView({ block: "nearest" });
    setTimeout(show, 100);
  };
  show();
});
