"""What fills a spec from outside of it: datasets, parent jobs, base experiments and devices."""
