"""Fine-tuning baselines: FT, FT-L, FT+EWC, FT+Retrain and LocFT-BF, as settings of one training loop."""
