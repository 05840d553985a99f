"""Training and evaluation on mmengine's Runner; no other package imports mmengine.

train          builds and runs                runner        mmengine's Runner with replacements
loop           epochs, steps, evaluation      hooks         log, checkpoints
optim          from a loss to an update       state         the contents of a checkpoint
evaluation     a checkpoint on a split        distributed   one process or several
"""
