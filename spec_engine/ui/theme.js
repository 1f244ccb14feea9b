// Light or dark: as the system has it, unless the button at the top chose the other one in this browser.
(() => {
  const CHOICE = "se-theme"; // "dark" or "light", only while it is not what the system has
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null; // where the browser keeps nothing, a choice holds as long as the page
  const read = () => { try { chosen = localStorage.getItem(CHOICE); } catch { /* not allowed to keep anything */ } };
  const isDark = () => (chosen === null ? system.matches : chosen === "dark");
  const show = () => {
    const root = document.documentElement, dark = isDark();
    for (const ground of ["--bg", "--bg-dark"]) { // of the page before it is there, which knows the system alone
      if (chosen === null) root.style.removeProperty(ground);
      else root.style.setProperty(ground, dark ? "#0f1218" : "#f5f6f8");
    }
    root.style.colorScheme = dark ? "dark" : "light";
    if (document.body && document.body.classList.contains("dark") !== dark) document.body.classList.toggle("dark", dark);
    const button = document.querySelector("#se-theme");
    if (button && button.getAttribute("aria-pressed") !== String(dark)) button.setAttribute("aria-pressed", dark);
  };
  read();
  show();
  new MutationObserver(show).observe(document.documentElement, { subtree: true, childList: true, attributes: true, attributeFilter: ["class"] });
  system.addEventListener("change", show);
  addEventListener("storage", (event) => { if (event.key === CHOICE || event.key === null) { read(); show(); } });
  document.addEventListener("click", (event) => {
    if (!event.target.closest?.("#se-theme")) return;
    const dark = !isDark();
    chosen = dark === system.matches ? null : dark ? "dark" : "light";
    try {
      if (chosen === null) localStorage.removeItem(CHOICE);
      else localStorage.setItem(CHOICE, chosen);
    } catch { /* not allowed to keep anything */ }
    show();
  });
})();
