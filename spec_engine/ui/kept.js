// What is typed survives a reload, and a program that was started anew; a program that has ended is told in plain words.
// A question, and a pasted text that is not used yet, come back into their fields.
const keepDraft = (place, key) => {
  let known = null; // the field that was given its draft; one in a part that folds away comes when that is opened
  const write = (text) => {
    try {
      if (text) sessionStorage.setItem(key, text);
      else sessionStorage.removeItem(key);
    } catch { sessionStorage.removeItem(key); } // too long to be kept: better none than an old one
  };
  document.addEventListener("input", (event) => { if (event.target.closest(place)) write(event.target.value); });
  const look = () => {
    const field = document.querySelector(`${place} textarea, ${place} input`), draft = sessionStorage.getItem(key);
    if (field && field !== known && draft && !field.value) {
      Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set.call(field, draft);
      field.dispatchEvent(new Event("input", { bubbles: true }));
    } else if (field && !field.value && draft) write(""); // whatever emptied the field: it was sent, or by a person
    known = field ?? known;
  };
  setInterval(look, 300);
  addEventListener("pagehide", look);
};
keepDraft("#se-box", "se-question");
keepDraft("#se-paste-words", "se-paste-words");
keepDraft("#se-paste-name", "se-paste-name");

// Gradio finds out that its server is gone, asks for it every two seconds and loads the page again once it is back.
const LOST = "The program behind this page has ended, or cannot be reached. Nothing is lost: conversations are kept on " +
  "disk as they are written, and a question or text that you were typing stays here. Start the program again the way " +
  "you did before; this page then comes back by itself, or reload it.";
const tellLost = () => {
  for (const words of document.querySelectorAll(".toast-message-text")) {
    if (!words.textContent.startsWith("Connection to the server was lost")) continue;
    words.textContent = LOST;
    const title = words.closest(".toast-body")?.querySelector(".toast-title");
    if (title) title.textContent = "No connection";
  }
};
new MutationObserver(tellLost).observe(document.documentElement, { subtree: true, childList: true });
