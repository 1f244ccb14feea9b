// Keys of the page: Escape stops, Alt+N begins a new chat, "/" goes to the question.
document.addEventListener("keydown", (event) => {
  const press = (selector) => {
    const button = document.querySelector(selector);
    if (button && button.offsetParent !== null && !button.disabled) button.click();
  };
  if (document.querySelector("dialog[open]")) return; // its own keys come first
  const isTyping = event.target.matches("input, textarea, [contenteditable]");
  if (event.key === "Escape") press("#se-stop");
  else if (event.altKey && event.code === "KeyN") { event.preventDefault(); press("#se-new"); }
  else if (event.key === "/" && !isTyping) {
    event.preventDefault();
    document.querySelector("#se-box textarea, #se-box input")?.focus();
  }
});

// A link to a place in the document shows it in a dialog over the page; with a modifier key it opens as a page of its own.
const showPlace = async (address) => {
  const answer = await fetch(address);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  let dialog = document.querySelector("#se-place");
  if (!dialog) {
    dialog = document.createElement("dialog");
    dialog.id = "se-place";
    dialog.setAttribute("aria-label", "A place in the document");
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    document.body.append(dialog);
  }
  const close = Object.assign(document.createElement("button"), { textContent: "×", title: "Close", className: "se-close" });
  close.setAttribute("aria-label", "Close");
  close.addEventListener("click", () => dialog.close());
  const place = page.querySelector("main") ?? Object.assign(document.createElement("main"), { textContent: "This place is not there any more." });
  dialog.replaceChildren(close, place);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  close.focus();
};
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a.se-place-link");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
  event.preventDefault();
  showPlace(link.href);
});
