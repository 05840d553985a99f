# The recipe that trained VideoMamba on Something-Something v2: that of Kinetics-400 without mirroring, which would
# swap left and right. One of the 2 views in time starts at 1/4 of a segment instead of at its beginning.
# data.root: something-something-v2-{train,validation,labels}.json; data.videos: the folder of the videos in it.
_base_ = 'kinetics400_videomamba.py'
data = dict(
    _delete_=True, name='something_v2', root='data/something-something-v2', sampling='uniform', repeats=2, workers=12
)
augment = dict(hflip=0.0)
optim = dict(lr=4e-4)
schedule = dict(epochs=30)
