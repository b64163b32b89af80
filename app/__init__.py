import gc

# Far more is made than dropped, first by the imports: to look for garbage as often as Python does
# by itself takes a tenth of the start.
gc.set_threshold(10_000)
