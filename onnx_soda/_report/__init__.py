"""What a scan reports, and the forms it is written in."""
