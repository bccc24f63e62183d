"""What is owed: pricing, invoices, and how they come to be paid."""
