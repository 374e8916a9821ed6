// What htmx leaves to us: where the focus goes, what is said aloud, and that a button is pressed once.
(() => {
  const by = (id) => document.getElementById(id);
  const fresh = (name) => document.querySelector(`[${name}]`);
  const forget = () => {
    for (const name of ["data-focus", "data-say"])
      for (const element of document.querySelectorAll(`[${name}]`)) element.removeAttribute(name);
  };
  const say = (text) => {
    const status = by("status");
    if (text && status && status.textContent !== text) status.textContent = text;
  };
  const text = (element) => element?.textContent.replace(/\s+/g, " ").trim();

  let waiting = 0;
  let opener = null; // the button that opened a step
  let held = null; // what had the focus when a piece looked again by itself
  const looked = new Map();

  document.addEventListener("DOMContentLoaded", forget);

  // With a modifier key a link opens elsewhere, as the browser does it; htmx is not to hear of it.
  document.addEventListener(
    "click",
    (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) event.stopPropagation();
    },
    true,
  );

  // One press: a second one does nothing until the answer is there.
  document.addEventListener(
    "submit",
    (event) => {
      const form = event.target;
      if (form.ariaBusy) {
        event.preventDefault();
        event.stopImmediatePropagation();
        return;
      }
      form.ariaBusy = "true";
      (event.submitter || form.querySelector("button"))?.setAttribute("aria-busy", "true");
      form.waits = setTimeout(() => {
        const line = document.createElement("p");
        line.className = "muted waits";
        line.textContent = form.dataset.wait || by("status").dataset.wait;
        form.append(line);
        say(line.textContent);
      }, 1000);
    },
    true,
  );
  const release = (form) => {
    clearTimeout(form.waits);
    form.ariaBusy = null;
    for (const button of form.querySelectorAll("[aria-busy]")) button.removeAttribute("aria-busy");
    form.querySelector(".waits")?.remove();
  };
  addEventListener("pageshow", (event) => event.persisted && document.querySelectorAll("form").forEach(release));

  // A picture: too large is said before it is sent; chosen or dropped, it goes at once.
  document.addEventListener("change", ({ target }) => {
    const most = target.dataset?.most;
    if (!most || !target.files.length) return;
    const large = target.files[0].size > most;
    target.setCustomValidity(large ? target.dataset.tooLarge : "");
    if (large) target.reportValidity();
    else if ("send" in target.dataset) target.form.requestSubmit();
  });

  document.addEventListener("htmx:before:request", ({ detail: { ctx } }) => {
    if (ctx.sourceEvent?.type === "every") return;
    waiting += 1;
    document.documentElement.dataset.busy = "";
    const trouble = by("trouble");
    if (trouble) trouble.hidden = true;
  });
  document.addEventListener("htmx:finally:request", ({ detail: { ctx } }) => {
    if (ctx.sourceEvent?.type === "every") return;
    waiting -= 1;
    if (waiting < 1) delete document.documentElement.dataset.busy;
    const form = ctx.sourceElement?.closest?.("form");
    if (form && !ctx.hx?.redirect) release(form);
  });
  document.addEventListener("htmx:error", ({ detail: { ctx } }) => {
    if (!ctx?.request || ctx.sourceEvent?.type === "every") return;
    const link = ctx.sourceElement?.getAttribute?.("href");
    if (link) {
      location.href = link;
      return;
    }
    const trouble = by("trouble");
    trouble.textContent = trouble.dataset.lost;
    trouble.hidden = false;
  });

  document.addEventListener("htmx:before:swap", (event) => {
    const { ctx } = event.detail;
    if (ctx.sourceEvent?.type !== "every") return;
    const id = ctx.sourceElement.id;
    if (ctx.response.status >= 400 || looked.get(id) === ctx.text) event.preventDefault();
    looked.set(id, ctx.text);
    held = document.activeElement?.id;
  });

  // Tab: its heading, top of the page. Step: its heading; closed again: the button that opened it. Done: the card's
  // heading, and what came of it is said. Looked again in the background: the focus stays.
  document.addEventListener("htmx:after:swap", ({ detail: { ctx } }) => {
    const [focus, spoken] = [fresh("data-focus"), text(fresh("data-say"))];
    forget();
    if (ctx.sourceEvent?.type === "every") {
      if (held) by(held)?.focus({ preventScroll: true });
      say(spoken);
      return;
    }
    if (!focus) return;
    const isTab = focus.tagName === "H1";
    const opened = ctx.request.method === "GET" && !isTab && opener && by(opener);
    if (!isTab && ctx.request.method !== "GET") say(spoken);
    opener = ctx.pressed;
    if (isTab) scrollTo(0, 0);
    (opened || focus).focus({ preventScroll: isTab });
  });
  document.addEventListener("htmx:config:request", ({ detail: { ctx } }) => {
    ctx.pressed = ctx.sourceElement.id;
  });
})();
