"""Each op at the shapes of StarCoder and StarCoder2: what the compile report builds and the GPU check measures."""
