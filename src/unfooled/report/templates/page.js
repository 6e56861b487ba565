// The page works without this: it only adds a button that copies the command.
for (const button of document.querySelectorAll("button[data-copy]")) {
  const code = document.getElementById(button.dataset.copy);
  const select = () => getSelection().selectAllChildren(code);
  const say = (text) => {
    button.textContent = text;
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    if (!navigator.clipboard) { select(); say("Selected"); return; }
    navigator.clipboard.writeText(code.textContent).then(() => say("Copied"), () => { select(); say("Selected"); });
  });
}
