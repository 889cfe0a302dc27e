"""TWM (Robine, Höftmann, Uelwer, Harmeling, ICLR 2023): a categorical VAE, a Transformer-XL over latent, action and
reward, a policy on latents."""
