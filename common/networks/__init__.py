"""Networks of both codes: blocks, norms, attention, encoder, decoder, discriminator. They know no files."""
