document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
document.getElementById("save").addEventListener("click", () => {
  const blob = new Blob([document.getElementById("raw").textContent], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "tailcut.json";
  link.click();
  URL.revokeObjectURL(link.href);
});
document.documentElement.dataset.ready = String(JSON.parse(document.getElementById("raw").textContent).rungs.length);
