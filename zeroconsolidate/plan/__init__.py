"""WHAT TO COPY: pure arithmetic from facts to the pieces of each output tensor, and the layout of the output."""
