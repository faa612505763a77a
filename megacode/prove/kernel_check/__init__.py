"""Every kernel on a GPU: right against its definition, and how fast beside other implementations and the hardware."""
