"""The server side of pleat: plans rounds, ships orders, folds reports, keeps everything."""
