"""The demo: two real models behind the gateway on three workers, told as a short story in the terminal."""
