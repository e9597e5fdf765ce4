"""Work chains of all analyses; always imported as aiida_dse.workchains."""
