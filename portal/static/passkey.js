// Passkeys: the browser hands them to scripts only. A button with data-passkey names where to ask and where to answer.
(() => {
  if (!window.PublicKeyCredential || !navigator.credentials) return;
  const bytes = (text) =>
    Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (sign) => sign.charCodeAt(0));
  const text = (buffer) =>
    btoa(String.fromCharCode(...new Uint8Array(buffer)))
      .replace(/\+/g, "-")
      .replace(/\//g, "_")
      .replace(/=+$/, "");
  const post = async (address, body) => {
    const answer = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    if (answer.redirected) {
      location.href = answer.url;
      return null;
    }
    const said = await answer.json();
    if (!answer.ok) throw new Error(said.error);
    return said;
  };
  const listed = (keys) => (keys || []).map((key) => ({ ...key, id: bytes(key.id) }));

  const make = async ({ options, note }) => {
    const made = await navigator.credentials.create({
      publicKey: {
        ...options,
        challenge: bytes(options.challenge),
        user: { ...options.user, id: bytes(options.user.id) },
        excludeCredentials: listed(options.excludeCredentials),
      },
    });
    const response = {
      clientDataJSON: text(made.response.clientDataJSON),
      attestationObject: text(made.response.attestationObject),
      transports: made.response.getTransports?.() || [],
    };
    return { note, credential: { id: made.id, rawId: text(made.rawId), type: made.type, response } };
  };

  const show = async ({ options, note }) => {
    const shown = await navigator.credentials.get({
      publicKey: {
        ...options,
        challenge: bytes(options.challenge),
        allowCredentials: listed(options.allowCredentials),
      },
    });
    const { clientDataJSON, authenticatorData, signature, userHandle } = shown.response;
    const response = {
      clientDataJSON: text(clientDataJSON),
      authenticatorData: text(authenticatorData),
      signature: text(signature),
      userHandle: userHandle && text(userHandle),
    };
    return { note, credential: { id: shown.id, rawId: text(shown.rawId), type: shown.type, response } };
  };

  const wake = () => {
    for (const button of document.querySelectorAll("[data-passkey][hidden]")) button.hidden = false;
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-passkey]");
    if (!button || button.ariaBusy === "true") return;
    const trouble = document.getElementById(button.dataset.trouble);
    button.ariaBusy = "true";
    trouble.textContent = "";
    try {
      const asked = await post(button.dataset.ask, {});
      if (asked) {
        const answer = await (button.dataset.passkey === "make" ? make : show)(asked);
        const done = await post(button.dataset.answer, { ...answer, next: button.dataset.next });
        if (done) location.href = done.next;
      }
    } catch (error) {
      trouble.textContent = error.name === "Error" && error.message ? error.message : button.dataset.failed;
    }
    button.ariaBusy = null;
  });
  document.addEventListener("DOMContentLoaded", wake);
  document.addEventListener("htmx:after:swap", wake);
  wake();
})();
