"""Work chains of all analyses. Always import them as aiida_dse.workchains."""
