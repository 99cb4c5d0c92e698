// Sets the chosen theme and density before anything is painted, so that nothing flashes.
(() => {
  const root = document.documentElement;
  for (const name of ["theme", "density"]) {
    try {
      const chosen = localStorage.getItem(`iii-state-${name}`);
      if (chosen) root.dataset[name] = chosen;
    } catch { /* storage is turned off: the system's own choice holds */ }
  }
})();
