"""Training on several processes: data parallel, the two towers of section 3.2 and the hybrid of 2014."""
