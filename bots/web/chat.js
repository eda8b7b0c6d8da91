// What the chat page does without asking the server: theme, language, drawer, copying, scrolling.

(() => {
  const root = document.documentElement;

  // Theme: the person's choice, or else the system's as it changes.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const showTheme = () => {
    root.dataset.theme = localStorage.getItem("solemate-theme") ?? (system.matches ? "dark" : "light");
  };
  system.addEventListener("change", showTheme);
  showTheme();

  const narrow = matchMedia("(max-width: 899px)");
  const drawerIsOpen = () => root.classList.contains("drawer-open");

  const setDrawer = (open) => {
    if (open === drawerIsOpen()) return;
    root.classList.toggle("drawer-open", open);
    const menu = document.querySelector('.topbar [data-action="drawer"]');
    menu.setAttribute("aria-expanded", String(open));
    // Focus moves in once the drawer is visible, and back to where it came from.
    requestAnimationFrame(() => (open ? document.querySelector(".sidebar .new") : menu).focus());
  };

  const copy = async (text) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    // Browsers offer no clipboard on plain http; a selected text can still be copied.
    const box = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
  };

  const say = (button, words) => {
    button.classList.add("done");
    button.setAttribute("aria-label", words);
    button.dataset.said = words;
    setTimeout(() => {
      button.classList.remove("done");
      button.setAttribute("aria-label", button.title);
      delete button.dataset.said;
    }, 1600);
  };

  // The thread stays at its end while text grows, unless the person has scrolled up.
  let atEnd = true;
  const thread = () => document.querySelector(".thread");
  const toEnd = (behavior = "instant") => {
    if (!document.querySelector(".question")) return; // the empty page starts at its top
    thread()?.scrollTo({ top: thread().scrollHeight, behavior });
  };
  const noteScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = thread();
    atEnd = scrollHeight - scrollTop - clientHeight < 80;
    root.classList.toggle("scrolled-up", !atEnd);
  };
  document.addEventListener(
    "scroll",
    (event) => event.target.classList?.contains("thread") && noteScroll(),
    { capture: true, passive: true },
  );
  document.addEventListener(
    "load",
    (event) => event.target.closest?.(".photos") && atEnd && toEnd(),
    { capture: true },
  );

  // What unfolds is shown, and not behind the composer.
  document.addEventListener(
    "toggle",
    ({ target }) => {
      if (!target.open || !target.matches?.("details.sources")) return;
      if (atEnd) toEnd();
      else target.scrollIntoView({ block: "nearest" });
    },
    { capture: true },
  );

  const onMutation = (records) => {
    const asked = records.some(({ addedNodes }) =>
      [...addedNodes].some((node) => node.classList?.contains("question")),
    );
    if (asked) atEnd = true;
    if (atEnd) toEnd();
    else if (records.some(({ addedNodes }) => [...addedNodes].some((node) => node.matches?.(".why")))) {
      document.querySelector(".why").scrollIntoView({ block: "nearest" });
    }
  };

  const actions = {
    theme() {
      localStorage.setItem("solemate-theme", root.dataset.theme === "dark" ? "light" : "dark");
      showTheme();
    },
    language(button) {
      document.cookie = `${button.dataset.cookie}; path=/; max-age=31536000; samesite=lax`;
      location.reload();
    },
    drawer() {
      setDrawer(!drawerIsOpen());
    },
    async copy(button) {
      await copy(button.dataset.text);
      say(button, button.dataset.done);
    },
    forget(button) {
      const dialog = document.getElementById("forget");
      dialog.dataset.conversation = button.dataset.conversation;
      dialog.showModal();
    },
    "to-end"() {
      toEnd(matchMedia("(prefers-reduced-motion: reduce)").matches ? "instant" : "smooth");
    },
  };

  document.addEventListener("click", (event) => {
    const target = event.target.closest("[data-action]");
    if (target) actions[target.dataset.action]?.(target);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) setDrawer(false);
  });
  narrow.addEventListener("change", () => setDrawer(false));

  addEventListener("DOMContentLoaded", () => {
    new MutationObserver(onMutation).observe(document.getElementById("app"), {
      childList: true,
      characterData: true,
      subtree: true,
    });
    const popup = document.getElementById("popup");
    popup.setAttribute("role", "status");
    popup.textContent = document.querySelector(".shell")?.dataset.reconnecting ?? "";
    toEnd();
  });
})();
