// Keys of the page: Escape stops, Alt+N begins a new chat, "/" goes to the question.
document.addEventListener("keydown", (event) => {
  const press = (selector) => {
    const button = document.querySelector(selector);
    if (button && button.offsetParent !== null && !button.disabled) button.click();
  };
  const isTyping = event.target.matches("input, textarea, [contenteditable]");
  if (event.key === "Escape") press("#se-stop");
  else if (event.altKey && event.code === "KeyN") { event.preventDefault(); press("#se-new"); }
  else if (event.key === "/" && !isTyping) {
    event.preventDefault();
    document.querySelector("#se-box textarea, #se-box input")?.focus();
  }
});
