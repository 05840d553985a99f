"""Training and evaluation on mmengine's Runner: the only package that imports mmengine.

config      files as data           schema   what a configuration may say
train       builds and runs         mm       mmengine with its faults mended
loop        epochs, evaluation      hooks    learning rate, average, log, checkpoints
optim       from a loss to an update         state   what a checkpoint holds
evaluation  a checkpoint on a split          distributed   one process or several
"""
