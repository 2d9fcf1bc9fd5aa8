"""Made-up furnished rooms: layout, pictures, and volumes whose distances are exact."""
