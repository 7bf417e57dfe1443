"""Code for all editing methods: the register of editors, rollback, records, results and subject positions."""
