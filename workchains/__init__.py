"""Work chains; always imported as aiida_dse.workchains."""
