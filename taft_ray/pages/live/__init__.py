"""Pages of the server in `web`: of all runs, a run, a certificate, a forget. Drawings are SVG without matplotlib."""
