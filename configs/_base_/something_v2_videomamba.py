# The recipe with which VideoMamba was trained on Something-Something v2: Kinetics-400's, without mirror images, which
# would turn left into right; of 2 views in time one starts at 1/4 of a part instead of at its begin.
# data.root: something-something-v2-{train,validation,labels}.json; data.videos: the folder of the videos in it.
_base_ = 'kinetics400_videomamba.py'
data = dict(
    _delete_=True, name='something_v2', root='data/something-something-v2', sampling='uniform', repeats=2, workers=12
)
augment = dict(hflip=0.0)
optim = dict(lr=4e-4)
schedule = dict(epochs=30)
