"""How an encoder is judged: classification protocols and nearest neighbours."""
