"""IRIS (Micheli, Alonso, Fleuret, ICLR 2023): a VQ autoencoder, a GPT over its tokens, a policy learned in dreams."""
